//! Byte streams out of files that may be compressed, and lines out of byte streams, each within a limit.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;

use super::error::{CompressionFault, DataError};
use super::files::Packed;

/// What a file holds, decompressed as it is read.
type Opened = (Box<dyn BufRead + Send>, Packed);

/// Opens a file for reading what it holds, and says how it was packed after all: a file whose name tells of no compression
/// is looked at. Every frame or member of a compressed file is read.
pub(super) fn open(path: &Path, packed: Packed, window_log: u32) -> Result<Opened, DataError> {
    let mut file = BufReader::with_capacity(1 << 16, File::open(path).map_err(DataError::io("open", path))?);
    let packed = match packed {
        Packed::Plain => sniffed(file.fill_buf().map_err(DataError::io("read", path))?),
        told => told,
    };
    let input: Box<dyn BufRead + Send> = match packed {
        Packed::Plain => Box::new(file),
        Packed::Gzip => Box::new(BufReader::with_capacity(1 << 16, MultiGzDecoder::new(file))),
        Packed::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(file).map_err(DataError::io("open", path))?;
            decoder.window_log_max(window_log).map_err(DataError::io("open", path))?;
            Box::new(BufReader::with_capacity(1 << 16, decoder))
        }
    };
    Ok((input, packed))
}

/// How a file that begins so is packed. Neither beginning is UTF-8, so no text is mistaken for one.
fn sniffed(first: &[u8]) -> Packed {
    match first {
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Packed::Zstd,
        [0x1f, 0x8b, ..] => Packed::Gzip,
        _ => Packed::Plain,
    }
}

/// What a failed read of such a stream means. zstd and gzip report through `io::Error`, told apart by kind and words.
pub(super) fn read_error(path: &Path, packed: Packed, window_log: u32, error: io::Error) -> DataError {
    let words = error.to_string();
    let format = match packed {
        Packed::Plain => return DataError::Io { doing: "read", path: path.to_path_buf(), error },
        Packed::Zstd => "zstd",
        Packed::Gzip => "gzip",
    };
    let fault = if error.kind() == io::ErrorKind::UnexpectedEof {
        CompressionFault::Truncated
    } else if words.contains("too much memory") {
        CompressionFault::Window { limit_log: window_log }
    } else if words.contains("Unknown frame descriptor") || words.contains("invalid gzip header") {
        CompressionFault::Foreign { format }
    } else {
        CompressionFault::Damaged(words)
    };
    DataError::Compression { path: path.to_path_buf(), fault }
}

/// What the next line turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Line {
    /// It is in the buffer, without its end.
    Whole,
    /// It exceeded the limit, was read over, and the buffer holds nothing of use.
    TooLong,
    /// There is none.
    End,
}

/// Reads the next line into `line`, at most `limit` bytes of it; `\n` and `\r\n` end a line.
pub(super) fn next_line(input: &mut dyn BufRead, line: &mut Vec<u8>, limit: u64) -> io::Result<Line> {
    line.clear();
    // Two more bytes than the limit: room for the line's end.
    let read = Read::take(&mut *input, limit.saturating_add(2)).read_until(b'\n', line)?;
    if read == 0 {
        return Ok(Line::End);
    }
    let ended = line.last() == Some(&b'\n');
    if ended {
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
    }
    if line.len() as u64 <= limit {
        return Ok(Line::Whole);
    }
    line.clear();
    if !ended {
        skip_line(input)?;
    }
    Ok(Line::TooLong)
}

/// Reads up to and with the next `\n` without keeping any of it.
fn skip_line(input: &mut dyn BufRead) -> io::Result<()> {
    loop {
        let (used, done) = match input.fill_buf()? {
            [] => return Ok(()),
            chunk => match chunk.iter().position(|&byte| byte == b'\n') {
                Some(at) => (at + 1, true),
                None => (chunk.len(), false),
            },
        };
        input.consume(used);
        if done {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn lines(input: &[u8], limit: u64) -> Vec<(Line, String)> {
        let mut input = BufReader::with_capacity(4, input);
        let mut line = Vec::new();
        let mut all = Vec::new();
        loop {
            match next_line(&mut input, &mut line, limit).unwrap() {
                Line::End => return all,
                kind => all.push((kind, String::from_utf8(line.clone()).unwrap())),
            }
        }
    }

    #[test]
    fn both_line_ends_are_taken_off_and_the_last_line_may_lack_one() {
        let whole = |text: &str| (Line::Whole, text.to_owned());
        assert_eq!(lines(b"ab\r\n\ncd\n\re", 9), [whole("ab"), whole(""), whole("cd"), whole("\re")]);
    }

    #[test]
    fn a_line_at_the_limit_passes_and_one_beyond_is_read_over() {
        let input = b"12345\r\n123456\n1234567890123\n12\n1234567";
        let kinds: Vec<Line> = lines(input, 5).into_iter().map(|(kind, _)| kind).collect();
        assert_eq!(kinds, [Line::Whole, Line::TooLong, Line::TooLong, Line::Whole, Line::TooLong]);
    }
}
