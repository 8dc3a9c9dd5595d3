//! Metadata values: numbers, flags and texts are kept, arrays only found; they are read when somebody asks.

use super::bytes::Cursor;
use super::error::Problem;

/// Most bytes of a text outside an array; chat templates take some thousands.
const MAX_TEXT_BYTES: usize = 16 << 20;
/// Arrays within arrays that are walked through.
const MAX_DEPTH: u32 = 4;

/// The types of single values, by their numbers in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scalar {
    /// 0
    U8,
    /// 1
    I8,
    /// 2
    U16,
    /// 3
    I16,
    /// 4
    U32,
    /// 5
    I32,
    /// 6
    F32,
    /// 7
    Bool,
    /// 8
    Text,
    /// 10
    U64,
    /// 11
    I64,
    /// 12
    F64,
}

/// Number of an array's type.
const ARRAY: u32 = 9;

impl Scalar {
    fn from_id(id: u32) -> Option<Self> {
        const BY_ID: [Option<Scalar>; 13] = [
            Some(Scalar::U8),
            Some(Scalar::I8),
            Some(Scalar::U16),
            Some(Scalar::I16),
            Some(Scalar::U32),
            Some(Scalar::I32),
            Some(Scalar::F32),
            Some(Scalar::Bool),
            Some(Scalar::Text),
            None,
            Some(Scalar::U64),
            Some(Scalar::I64),
            Some(Scalar::F64),
        ];
        BY_ID.get(id as usize).copied().flatten()
    }

    /// Bytes of one value; the least that a text takes.
    fn least_bytes(self) -> u64 {
        match self {
            Self::U8 | Self::I8 | Self::Bool => 1,
            Self::U16 | Self::I16 => 2,
            Self::U32 | Self::I32 | Self::F32 => 4,
            Self::Text | Self::U64 | Self::I64 | Self::F64 => 8,
        }
    }
}

/// A value of the metadata.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Any of the unsigned types.
    Unsigned(u64),
    /// Any of the signed ones.
    Signed(i64),
    /// Single precision.
    Single(f32),
    /// Double precision.
    Double(f64),
    /// True or false.
    Flag(bool),
    /// A text.
    Text(String),
    /// A list of values of one type.
    Array(Array),
    /// A list of lists, which nothing here asks for.
    Nested,
}

/// Where a list lies in the file; checked to be whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Array {
    /// Type of its values.
    pub scalar: Scalar,
    /// How many there are.
    pub count: usize,
    /// Where the first begins.
    pub(super) start: usize,
}

impl Value {
    /// Reads the value of `key`: its type, then itself.
    pub(super) fn read(cursor: &mut Cursor<'_>, key: &str) -> Result<Self, Problem> {
        let id = cursor.u32(key)?;
        if id == ARRAY {
            return array(cursor, key, 0);
        }
        let scalar = Scalar::from_id(id).ok_or_else(|| Problem::key(key, format!("value type {id} is not known")))?;
        Self::scalar(cursor, scalar, key)
    }

    fn scalar(cursor: &mut Cursor<'_>, scalar: Scalar, key: &str) -> Result<Self, Problem> {
        Ok(match scalar {
            Scalar::U8 => Self::Unsigned(u8::from_le_bytes(cursor.array(key)?).into()),
            Scalar::U16 => Self::Unsigned(u16::from_le_bytes(cursor.array(key)?).into()),
            Scalar::U32 => Self::Unsigned(cursor.u32(key)?.into()),
            Scalar::U64 => Self::Unsigned(cursor.u64(key)?),
            Scalar::I8 => Self::Signed(i8::from_le_bytes(cursor.array(key)?).into()),
            Scalar::I16 => Self::Signed(i16::from_le_bytes(cursor.array(key)?).into()),
            Scalar::I32 => Self::Signed(i32::from_le_bytes(cursor.array(key)?).into()),
            Scalar::I64 => Self::Signed(i64::from_le_bytes(cursor.array(key)?)),
            Scalar::F32 => Self::Single(f32::from_le_bytes(cursor.array(key)?)),
            Scalar::F64 => Self::Double(f64::from_le_bytes(cursor.array(key)?)),
            Scalar::Bool => match cursor.array::<1>(key)? {
                [0] => Self::Flag(false),
                [1] => Self::Flag(true),
                [other] => return Err(Problem::key(key, format!("a flag must be 0 or 1, is {other}"))),
            },
            Scalar::Text => {
                let bytes = cursor.text(key)?;
                if bytes.len() > MAX_TEXT_BYTES {
                    let what = format!("a text of {} bytes; at most {MAX_TEXT_BYTES} are read", bytes.len());
                    return Err(Problem::key(key, what));
                }
                Self::Text(utf8(bytes, key)?.to_owned())
            }
        })
    }

    /// What it is, for a message.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Unsigned(n) => n.to_string(),
            Self::Signed(n) => n.to_string(),
            Self::Single(x) => x.to_string(),
            Self::Double(x) => x.to_string(),
            Self::Flag(flag) => flag.to_string(),
            Self::Text(text) => format!("{text:?}"),
            Self::Array(array) => format!("a list of {}", array.count),
            Self::Nested => "a list of lists".to_owned(),
        }
    }
}

fn array(cursor: &mut Cursor<'_>, key: &str, depth: u32) -> Result<Value, Problem> {
    let id = cursor.u32(key)?;
    let count = cursor.u64(key)?;
    if id == ARRAY {
        if depth == MAX_DEPTH {
            return Err(Problem::key(key, format!("more than {MAX_DEPTH} lists within lists")));
        }
        fits(cursor, count, 12, key)?;
        for _ in 0..count {
            array(cursor, key, depth + 1)?;
        }
        return Ok(Value::Nested);
    }
    let scalar = Scalar::from_id(id).ok_or_else(|| Problem::key(key, format!("element type {id} is not known")))?;
    fits(cursor, count, scalar.least_bytes(), key)?;
    let start = cursor.at();
    match scalar {
        Scalar::Text => {
            for _ in 0..count {
                cursor.text(key)?;
            }
        }
        // At most what is left of the file, as `fits` saw.
        _ => drop(cursor.take(count * scalar.least_bytes(), key)?),
    }
    Ok(Value::Array(Array { scalar, count: count as usize, start }))
}

/// That `count` values of at least `least` bytes can follow.
fn fits(cursor: &Cursor<'_>, count: u64, least: u64, key: &str) -> Result<(), Problem> {
    match count.checked_mul(least) {
        Some(bytes) if bytes <= cursor.left() => Ok(()),
        needed => {
            let needed = needed.and_then(|bytes| bytes.checked_add(cursor.at() as u64)).unwrap_or(u64::MAX);
            let bytes = cursor.at() as u64 + cursor.left();
            Err(Problem::Short { what: format!("{key}, a list of {count},"), bytes, needed })
        }
    }
}

impl Array {
    /// The texts of a list of texts in the file's `bytes`.
    pub(super) fn texts<'a>(&self, bytes: &'a [u8], key: &str) -> Result<Vec<&'a str>, Problem> {
        if self.scalar != Scalar::Text {
            return Err(Problem::key(key, format!("must be a list of texts, is one of {:?}", self.scalar)));
        }
        let mut cursor = Cursor::new(bytes, self.start);
        (0..self.count)
            .map(|at| utf8(cursor.text(key)?, key).map_err(|_| Problem::key(key, format!("entry {at} is not UTF-8"))))
            .collect()
    }

    /// The numbers of a list of whole numbers.
    pub(super) fn integers(&self, bytes: &[u8], key: &str) -> Result<Vec<i64>, Problem> {
        self.numbers(bytes, key, "whole numbers", |value| match value {
            Value::Unsigned(n) => i64::try_from(n).ok(),
            Value::Signed(n) => Some(n),
            _ => None,
        })
    }

    /// The numbers of a list of floating-point numbers.
    pub(super) fn floats(&self, bytes: &[u8], key: &str) -> Result<Vec<f32>, Problem> {
        self.numbers(bytes, key, "numbers", |value| match value {
            Value::Single(x) => Some(x),
            Value::Double(x) => Some(x as f32),
            _ => None,
        })
    }

    fn numbers<T>(
        &self,
        bytes: &[u8],
        key: &str,
        kind: &str,
        read: impl Fn(Value) -> Option<T>,
    ) -> Result<Vec<T>, Problem> {
        let mut cursor = Cursor::new(bytes, self.start);
        let number = |at: usize, cursor: &mut Cursor<'_>| {
            let value = Value::scalar(cursor, self.scalar, key)?;
            let shown = value.shown();
            read(value).ok_or_else(|| Problem::key(key, format!("must be a list of {kind}, entry {at} is {shown}")))
        };
        (0..self.count).map(|at| number(at, &mut cursor)).collect()
    }
}

pub(super) fn utf8<'a>(bytes: &'a [u8], key: &str) -> Result<&'a str, Problem> {
    std::str::from_utf8(bytes).map_err(|_| Problem::key(key, "is not UTF-8"))
}
