//! Everything before the data: metadata and the table of tensors, checked against the length of the file.

use std::collections::BTreeMap;

use super::MAGIC;
use super::bytes::Cursor;
use super::error::Problem;
use super::types::{TensorType, foreign_name};
use super::value::{Array, Value, utf8};

/// Most metadata pairs, and most tensors; models have some tens of the one and thousands of the other.
const MAX_ENTRIES: u64 = 1 << 17;
/// Longest key or name, as the format has it for keys.
const MAX_NAME_BYTES: usize = 65_535;
/// Most dimensions of a tensor.
const MAX_DIMENSIONS: u32 = 4;
/// The key that moves the start of every tensor, and what it is when it is absent.
const ALIGNMENT: (&str, usize) = ("general.alignment", 32);
/// Largest alignment that is believed.
const MAX_ALIGNMENT: u64 = 1 << 20;

/// A checked header.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// 2 or 3.
    pub version: u32,
    metadata: BTreeMap<String, Value>,
    tensors: BTreeMap<String, TensorPlace>,
}

/// A tensor of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorPlace {
    /// Element type; the bare number when it is not one that is read.
    pub kind: Result<TensorType, u32>,
    /// Sizes, outermost first.
    pub shape: Vec<usize>,
    /// Where its data begins in the file.
    start: usize,
    /// Bytes of its data; 0 when its type is not read.
    bytes: usize,
}

impl Header {
    /// Reads and checks the header of a whole file.
    ///
    /// # Errors
    ///
    /// The first [`Problem`].
    pub fn parse(bytes: &[u8]) -> Result<Self, Problem> {
        let mut cursor = Cursor::new(bytes, 0);
        let version = version(&mut cursor)?;
        let tensors = count(&mut cursor, "tensors")?;
        let pairs = count(&mut cursor, "metadata pairs")?;
        let mut metadata = BTreeMap::new();
        for at in 0..pairs {
            let key = name(&mut cursor, &format!("the key of metadata pair {at}"))?;
            let value = Value::read(&mut cursor, key)?;
            if metadata.insert(key.to_owned(), value).is_some() {
                return Err(Problem::key(key, "is given twice"));
            }
        }
        let mut header = Self { version, metadata, tensors: BTreeMap::new() };
        let alignment = header.alignment()?;
        for at in 0..tensors {
            let name = name(&mut cursor, &format!("the name of tensor {at}"))?;
            let place = row(&mut cursor, name)?;
            if header.tensors.insert(name.to_owned(), place).is_some() {
                return Err(Problem::tensor(name, "is in the table twice"));
            }
        }
        header.place(cursor.at(), alignment, bytes.len())?;
        Ok(header)
    }

    fn alignment(&self) -> Result<usize, Problem> {
        let (key, default) = ALIGNMENT;
        let Some(stated) = self.unsigned(key)? else { return Ok(default) };
        match stated {
            8..=MAX_ALIGNMENT if stated.is_power_of_two() => Ok(stated as usize),
            _ => Err(Problem::key(key, format!("must be a power of two from 8 to {MAX_ALIGNMENT}, is {stated}"))),
        }
    }

    /// Offsets in the data become places in the file, each whole and none within another.
    fn place(&mut self, end_of_table: usize, alignment: usize, length: usize) -> Result<(), Problem> {
        let data = end_of_table.checked_next_multiple_of(alignment);
        for (name, tensor) in &mut self.tensors {
            if !tensor.start.is_multiple_of(alignment) {
                let what = format!("offset {} is not a multiple of the alignment {alignment}", tensor.start);
                return Err(Problem::tensor(name, what));
            }
            let start = data.and_then(|data| data.checked_add(tensor.start));
            let end = start.and_then(|start| start.checked_add(tensor.bytes));
            match (start, end) {
                (Some(start), Some(end)) if end <= length => tensor.start = start,
                _ => {
                    let needed = end.map_or(u64::MAX, |end| end as u64);
                    return Err(Problem::Short { what: format!("tensor {name}"), bytes: length as u64, needed });
                }
            }
        }
        let mut by_start: Vec<(&String, &TensorPlace)> = self.tensors.iter().filter(|(_, t)| t.bytes > 0).collect();
        by_start.sort_by_key(|(_, tensor)| tensor.start);
        match by_start.windows(2).find(|pair| pair[0].1.start + pair[0].1.bytes > pair[1].1.start) {
            Some(pair) => Err(Problem::tensor(pair[1].0, format!("begins within tensor {}", pair[0].0))),
            None => Ok(()),
        }
    }

    /// Every tensor by its name.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &TensorPlace)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// One tensor.
    pub fn tensor(&self, name: &str) -> Option<&TensorPlace> {
        self.tensors.get(name)
    }

    /// Every key.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.metadata.keys().map(String::as_str)
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.metadata.get(key)
    }

    fn typed<T>(&self, key: &str, kind: &str, read: impl Fn(&Value) -> Option<T>) -> Result<Option<T>, Problem> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let wrong = || Problem::key(key, format!("must be {kind}, is {}", value.shown()));
        read(value).map(Some).ok_or_else(wrong)
    }

    /// A whole number from 0, whatever its width.
    pub(super) fn unsigned(&self, key: &str) -> Result<Option<u64>, Problem> {
        self.typed(key, "a whole number from 0", |value| match value {
            Value::Unsigned(n) => Some(*n),
            Value::Signed(n) => u64::try_from(*n).ok(),
            _ => None,
        })
    }

    /// A finite number; a single is read as the shortest decimal that rounds to it, which is what its author wrote.
    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, Problem> {
        let finite = |x: f64| x.is_finite().then_some(x);
        self.typed(key, "a finite number", |value| match value {
            Value::Single(x) => x.to_string().parse().ok().and_then(finite),
            Value::Double(x) => finite(*x),
            _ => None,
        })
    }

    /// True or false.
    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, Problem> {
        self.typed(key, "true or false", |value| if let Value::Flag(flag) = value { Some(*flag) } else { None })
    }

    /// A text.
    pub(super) fn text(&self, key: &str) -> Result<Option<&str>, Problem> {
        // `typed` gives values of their own; a borrowed one is looked up again.
        self.typed(key, "a text", |value| matches!(value, Value::Text(_)).then_some(()))?;
        Ok(if let Some(Value::Text(text)) = self.get(key) { Some(text) } else { None })
    }

    /// A list.
    pub(super) fn array(&self, key: &str) -> Result<Option<Array>, Problem> {
        self.typed(key, "a list", |value| if let Value::Array(array) = value { Some(*array) } else { None })
    }
}

fn version(cursor: &mut Cursor<'_>) -> Result<u32, Problem> {
    let magic = cursor.take(cursor.left().min(4), "the letters GGUF")?;
    if magic != MAGIC {
        return Err(Problem::Magic { found: magic.to_vec() });
    }
    match cursor.u32("the version")? {
        found @ (2 | 3) => Ok(found),
        found => Err(Problem::Version { found, big_endian: (1..=3).contains(&found.swap_bytes()) }),
    }
}

fn count(cursor: &mut Cursor<'_>, what: &str) -> Result<u64, Problem> {
    match cursor.u64(&format!("the number of {what}"))? {
        count if count <= MAX_ENTRIES => Ok(count),
        count => Err(Problem::Header(format!("{count} {what}; at most {MAX_ENTRIES} are read"))),
    }
}

fn name<'a>(cursor: &mut Cursor<'a>, what: &str) -> Result<&'a str, Problem> {
    let bytes = cursor.text(what)?;
    if bytes.is_empty() || bytes.len() > MAX_NAME_BYTES {
        return Err(Problem::Header(format!("{what} has {} bytes; 1 to {MAX_NAME_BYTES} are allowed", bytes.len())));
    }
    utf8(bytes, what).map_err(|_| Problem::Header(format!("{what} is not UTF-8")))
}

/// Type and shape; `start` is still the offset in the data.
fn row(cursor: &mut Cursor<'_>, name: &str) -> Result<TensorPlace, Problem> {
    let what = format!("the row of tensor {name}");
    let dimensions = cursor.u32(&what)?;
    if !(1..=MAX_DIMENSIONS).contains(&dimensions) {
        let what = format!("has {dimensions} dimensions; 1 to {MAX_DIMENSIONS} are allowed");
        return Err(Problem::tensor(name, what));
    }
    // The file has the innermost size first.
    let mut sizes = (0..dimensions).map(|_| cursor.u64(&what)).collect::<Result<Vec<u64>, _>>()?;
    sizes.reverse();
    let too_large = || Problem::tensor(name, format!("shape {sizes:?} has no size in memory"));
    if sizes.contains(&0) {
        return Err(Problem::tensor(name, format!("shape {sizes:?} is empty")));
    }
    let shape: Vec<usize> =
        sizes.iter().map(|&n| usize::try_from(n).ok()).collect::<Option<_>>().ok_or_else(too_large)?;
    let count = shape.iter().try_fold(1_usize, |product, &n| product.checked_mul(n)).ok_or_else(too_large)?;
    // Four bytes each, once they are read.
    count.checked_mul(4).filter(|&bytes| bytes <= isize::MAX as usize).ok_or_else(too_large)?;
    let id = cursor.u32(&what)?;
    let offset = cursor.u64(&what)?;
    let start = usize::try_from(offset).map_err(|_| Problem::tensor(name, format!("offset {offset} is too large")))?;
    let Some(kind) = TensorType::from_id(id) else { return Ok(TensorPlace { kind: Err(id), shape, start, bytes: 0 }) };
    let columns = shape[shape.len() - 1];
    let Some(row) = kind.row_bytes(columns) else {
        let what = format!("rows of {columns} weights are not whole blocks of {} ({kind})", kind.block());
        return Err(Problem::tensor(name, what));
    };
    let bytes = (count / columns).checked_mul(row).ok_or_else(too_large)?;
    Ok(TensorPlace { kind: Ok(kind), shape, start, bytes })
}

impl TensorPlace {
    /// Its element type.
    pub(super) fn read_as(&self, name: &str) -> Result<TensorType, Problem> {
        self.kind.map_err(|id| {
            let known: Vec<String> = TensorType::ALL.iter().map(ToString::to_string).collect();
            let what = format!("element type {id} ({}) is not read; {} are", foreign_name(id), known.join(", "));
            Problem::tensor(name, what)
        })
    }

    /// Where its data lies in the file.
    pub fn range(&self) -> std::ops::Range<usize> {
        // Whole: the header was checked against the length of the file.
        self.start..self.start + self.bytes
    }

    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().map(|&n| n as u64).product()
    }
}
