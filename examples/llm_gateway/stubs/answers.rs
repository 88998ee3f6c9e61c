//! Answers of providers, each in its own shape.

use serde_json::{Value, json};

use super::{Provider, requests::Asked};

/// An answer in the provider's shape.
pub fn answer(provider: Provider, asked: &Asked) -> Value {
    let model = provider.model();
    let last = asked.texts.last().map_or("", String::as_str);
    let text = format!("{model} has read: {last}");
    // Roughly the number of tokens of English text.
    let tokens = |text: &str| text.len().div_ceil(4);
    let prompt: usize = asked.texts.iter().map(|text| tokens(text)).sum();
    let completion = tokens(&text);
    let total = prompt + completion;
    match provider {
        Provider::OpenAi | Provider::DeepSeek => json!({
            "id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT",
            "object": "chat.completion",
            "created": 1_764_000_000,
            "model": model,
            "choices": [{
                "index": 0,
                "message": {"role": "assistant", "content": text, "refusal": null, "annotations": []},
                "logprobs": null,
                "finish_reason": "stop",
            }],
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "total_tokens": total,
                "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
            },
            "service_tier": "default",
            "system_fingerprint": "fp_44709d6fcb",
        }),
        Provider::Anthropic => json!({
            "id": "msg_01XFDUDYJgAACzvnptvVoYEL",
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [{"type": "text", "text": text}],
            "stop_reason": "end_turn",
            "stop_sequence": null,
            "usage": {
                "input_tokens": prompt,
                "cache_creation_input_tokens": 0,
                "cache_read_input_tokens": 0,
                "output_tokens": completion,
                "service_tier": "standard",
            },
        }),
        Provider::Gemini => json!({
            "candidates": [{
                "content": {"parts": [{"text": text}], "role": "model"},
                "finishReason": "STOP",
                "index": 0,
            }],
            "usageMetadata": {
                "promptTokenCount": prompt,
                "candidatesTokenCount": completion,
                "totalTokenCount": total,
                "promptTokensDetails": [{"modality": "TEXT", "tokenCount": prompt}],
            },
            "modelVersion": model,
            "responseId": "mAitaLmkHPPlz7IPvtfUqQ4",
        }),
        Provider::Ollama => json!({
            "model": model,
            "created_at": "2025-11-24T16:00:00.123456Z",
            "message": {"role": "assistant", "content": text},
            "done": true,
            "done_reason": "stop",
            "total_duration": 4_883_583_458_u64,
            "load_duration": 1_334_875,
            "prompt_eval_count": prompt,
            "prompt_eval_duration": 342_546_000,
            "eval_count": completion,
            "eval_duration": 4_535_599_000_u64,
        }),
    }
}
