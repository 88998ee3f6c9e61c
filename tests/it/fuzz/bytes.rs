//! Bytes that are almost a request, or nothing like it.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::BASE;
use crate::scripts::{Part, packed};

/// Any MessagePack value; texts may hold any bytes.
#[derive(Clone, Debug)]
pub enum Value {
    Nil,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Float(f64),
    Text(Vec<u8>),
    Array(Vec<Value>),
    Map(Vec<(Value, Value)>),
    Raw(Vec<u8>),
}

impl Value {
    pub fn bytes(&self) -> Vec<u8> {
        let sized = |marker: u8, length: usize| {
            let mut bytes = vec![marker];
            bytes.extend((length as u32).to_be_bytes());
            bytes
        };
        match self {
            Self::Nil => vec![0xc0],
            Self::Bool(value) => packed(value),
            Self::Int(value) => packed(value),
            Self::Uint(value) => packed(value),
            Self::Float(value) => packed(value),
            Self::Text(text) => [sized(0xdb, text.len()), text.clone()].concat(),
            Self::Array(values) => {
                let values = values.iter().flat_map(Self::bytes);
                sized(0xdd, self.len()).into_iter().chain(values).collect()
            }
            Self::Map(pairs) => {
                let pairs = pairs
                    .iter()
                    .flat_map(|(k, v)| [k.bytes(), v.bytes()].concat());
                sized(0xdf, self.len()).into_iter().chain(pairs).collect()
            }
            Self::Raw(bytes) => bytes.clone(),
        }
    }

    pub fn len(&self) -> usize {
        match self {
            Self::Array(values) => values.len(),
            Self::Map(pairs) => pairs.len(),
            _ => 1,
        }
    }
}

/// Numbers at which something could break.
pub fn edge() -> impl Strategy<Value = u64> {
    let powers = (0_u32..64, -1_i64..2).prop_map(|(p, by)| (1_u64 << p).wrapping_add_signed(by));
    prop_oneof![0_u64..40, powers, BASE - 100_000..BASE + 100_000]
}

pub fn text() -> impl Strategy<Value = Vec<u8>> {
    let words = select(vec![
        "closed",
        "open",
        "half_open",
        "metrics_only",
        "reset",
        "policy",
        "force_open",
        "r",
        "q",
        "token",
        "",
        "quorum=3",
        "window_ms=0",
        "window_calls=10000",
        "window_calls=1 jitter=100",
    ]);
    prop_oneof![
        4 => words.prop_map(|word| word.as_bytes().to_vec()),
        2 => vec(any::<u8>(), 0..20),
        1 => (0_usize..5000).prop_map(|length| vec![b'x'; length]),
    ]
}

pub fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        1 => Just(Value::Nil),
        1 => any::<bool>().prop_map(Value::Bool),
        1 => any::<i64>().prop_map(Value::Int),
        4 => edge().prop_map(Value::Uint),
        1 => edge().prop_map(|n| Value::Int((n as i64).wrapping_neg())),
        1 => any::<f64>().prop_map(Value::Float),
        3 => text().prop_map(Value::Text),
        1 => vec(any::<u8>(), 0..8).prop_map(Value::Raw),
    ];
    leaf.prop_recursive(3, 40, 16, |inner| {
        prop_oneof![
            3 => vec(inner.clone(), 0..16).prop_map(Value::Array),
            1 => vec((inner.clone(), inner), 0..8).prop_map(Value::Map),
        ]
    })
}

/// A change of bytes; positions are taken modulo the length.
#[derive(Clone, Debug)]
pub enum Edit {
    Set(usize, u8),
    Insert(usize, u8),
    Remove(usize),
    Cut(usize),
}

pub fn edit() -> impl Strategy<Value = Edit> {
    prop_oneof![
        4 => (any::<usize>(), any::<u8>()).prop_map(|(at, to)| Edit::Set(at, to)),
        1 => (any::<usize>(), any::<u8>()).prop_map(|(at, new)| Edit::Insert(at, new)),
        1 => any::<usize>().prop_map(Edit::Remove),
        1 => any::<usize>().prop_map(Edit::Cut),
    ]
}

pub fn edited(mut bytes: Vec<u8>, edits: &[Edit]) -> Vec<u8> {
    for edit in edits {
        let length = bytes.len();
        match *edit {
            Edit::Insert(at, new) => bytes.insert(at % (length + 1), new),
            _ if length == 0 => {}
            Edit::Set(at, to) => bytes[at % length] = to,
            Edit::Remove(at) => drop(bytes.remove(at % length)),
            Edit::Cut(at) => bytes.truncate(at % length),
        }
    }
    bytes
}

#[derive(Clone, Debug)]
pub enum Payload {
    Bytes(Vec<u8>),
    Value(Value),
    /// A valid request with these values replaced.
    Replaced(Vec<(usize, Value)>),
    /// A valid request with these numbers or texts replaced by plausible ones.
    Nudged(Vec<(usize, u64, Vec<u8>)>),
    /// A valid request with these bytes changed.
    Edited(Vec<Edit>),
}

pub fn payload() -> impl Strategy<Value = Payload> {
    let number = prop_oneof![3 => 0_u64..1001, 1 => 0_u64..31_536_000_000, 1 => edge()];
    prop_oneof![
        1 => vec(any::<u8>(), 0..200).prop_map(Payload::Bytes),
        1 => value().prop_map(Payload::Value),
        4 => vec((any::<usize>(), value()), 1..4).prop_map(Payload::Replaced),
        8 => vec((any::<usize>(), number, text()), 1..6).prop_map(Payload::Nudged),
        3 => vec(edit(), 1..4).prop_map(Payload::Edited),
    ]
}

pub fn size(part: &Part) -> usize {
    match part {
        Part::One(_) => 1,
        Part::Many(parts) => 1 + parts.iter().map(size).sum::<usize>(),
    }
}

/// Replaces the n-th value, counted at all depths.
pub fn replace(part: &mut Part, n: usize, by: &Value) {
    if n == 0 {
        *part = Part::One(by.bytes());
        return;
    }
    let mut n = n - 1;
    if let Part::Many(parts) = part {
        for part in parts {
            if n < size(part) {
                return replace(part, n, by);
            }
            n -= size(part);
        }
    }
}

/// The values that contain no others.
pub fn leaves(part: &mut Part) -> Vec<&mut Part> {
    match part {
        Part::Many(parts) => parts.iter_mut().flat_map(leaves).collect(),
        one => vec![one],
    }
}

impl Payload {
    /// The bytes to send instead of a valid request.
    pub fn bytes(&self, mut right: Part) -> Vec<u8> {
        match self {
            Self::Bytes(bytes) => bytes.clone(),
            Self::Value(value) => value.bytes(),
            Self::Replaced(replacements) => {
                for (n, by) in replacements {
                    // The first value is the request itself, which `Value` replaces.
                    let n = 1 + n % (size(&right) - 1).max(1);
                    replace(&mut right, n, by);
                }
                right.bytes()
            }
            Self::Nudged(nudges) => {
                for (n, number, word) in nudges {
                    let mut leaves = leaves(&mut right);
                    let n = n % leaves.len();
                    if let Part::One(bytes) = &mut *leaves[n] {
                        let is_text = bytes[0] & 0xe0 == 0xa0;
                        let by = if is_text {
                            Value::Text(word.clone())
                        } else {
                            Value::Uint(*number)
                        };
                        *bytes = by.bytes();
                    }
                }
                right.bytes()
            }
            Self::Edited(edits) => edited(right.bytes(), edits),
        }
    }
}
