//! Makes text from elsewhere safe for a terminal.
//!
//! Owns which characters are escaped: those that move the cursor, reverse text, or are invisible.

use std::fmt::Write;

use icu_properties::{
    CodePointMapData, CodePointSetData,
    props::{DefaultIgnorableCodePoint, GeneralCategory as Class},
};

/// Whether a character must be escaped. Characters that the Unicode tables do not classify count as
/// unsafe.
fn is_hidden(c: char) -> bool {
    let class = CodePointMapData::<Class>::new().get(c);
    let hidden = matches!(
        class,
        Class::Control
            | Class::Format
            | Class::LineSeparator
            | Class::ParagraphSeparator
            | Class::PrivateUse
            | Class::Surrogate
            | Class::Unassigned
    );
    !matches!(c, ' '..='~')
        && (hidden || CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(c))
}

/// Escapes such characters in text from elsewhere: `\u{202e}`.
pub fn shown(text: &str) -> String {
    written_out(text, |out, c| out.extend(c.escape_default()))
}

/// Escapes such characters in a JSON document: `\u202e`. The document's meaning does not change.
pub fn in_json(document: &str) -> String {
    written_out(document, |out, c| match c {
        // Between values. JSON escapes it within strings.
        '\n' => out.push(c),
        _ => {
            for unit in c.encode_utf16(&mut [0; 2]) {
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    })
}

fn written_out(text: &str, write: impl Fn(&mut String, char)) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match is_hidden(c) {
            true => write(&mut out, c),
            false => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Characters without a glyph that affect others, by Unicode's own tables and not by those of
    /// the library.
    fn acts(c: char) -> bool {
        c.is_control()
            || matches!(c,
                '\u{ad}' | '\u{600}'..='\u{605}' | '\u{61c}' | '\u{6dd}' | '\u{70f}'
                | '\u{890}'..='\u{891}' | '\u{8e2}' | '\u{180e}' | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}' | '\u{110bd}' | '\u{110cd}' | '\u{13430}'..='\u{1343f}'
                | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
                | '\u{3164}' | '\u{e000}'..='\u{f8ff}' | '\u{e0000}'..='\u{10ffff}')
    }

    #[test]
    fn no_character_that_acts_or_hides_gets_through() {
        for c in '\0'..=char::MAX {
            let text = format!("a{c}b");
            let plain = shown(&text);
            assert!(!plain.contains(acts), "{c:?} {plain:?}");
            for json in [
                serde_json::to_string(&text).unwrap(),
                serde_json::to_string_pretty(&[&text]).unwrap(),
            ] {
                let escaped = in_json(&json);
                let acts = |c: char| acts(c) && c != '\n';
                assert!(!escaped.contains(acts), "{c:?} {escaped:?}");
                let [before, after] = [&json, &escaped]
                    .map(|json| serde_json::from_str::<serde_json::Value>(json).unwrap());
                assert_eq!(before, after);
            }
        }
    }

    #[test]
    fn what_is_written_out_can_be_read_and_the_rest_stays() {
        assert_eq!(shown("pay\u{1b}[2Jments\r\n"), "pay\\u{1b}[2Jments\\r\\n");
        assert_eq!(shown("a\u{202e}b\u{e0041}"), "a\\u{202e}b\\u{e0041}");
        assert_eq!(
            in_json("[\n\"\u{9b}\u{e0041}\"]"),
            "[\n\"\\u009b\\udb40\\udc41\"]"
        );
        for plain in ["payments/eu ü 支 🚀", "\"C:\\new\" ~", "שלום مرحبا नमस्ते"]
        {
            assert_eq!(shown(plain), plain);
            assert_eq!(in_json(plain), plain);
        }
    }
}
