//! A weight file, mapped or in memory, whose length is looked at again before its bytes are handed out.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use memmap2::Mmap;

use super::error::WeightsError;

/// How to hold the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Access {
    /// Mapped: pages are read when they are used and cost no memory of their own.
    #[default]
    Mapped,
    /// Read into memory: for file systems on which a mapped file may vanish under the reader.
    Read,
}

/// One opened file that is not empty.
#[derive(Debug)]
pub struct Held {
    path: PathBuf,
    file: File,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Mapped(Mmap),
    Read(Vec<u8>),
}

impl Held {
    /// Opens a file; whoever calls has seen that it is a regular one.
    ///
    /// # Errors
    ///
    /// When it cannot be read, or is empty.
    pub fn open(path: PathBuf, access: Access) -> Result<Self, WeightsError> {
        let io = |source| WeightsError::Io { doing: "read", path: path.clone(), source };
        let file = File::open(&path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        if length == 0 {
            return Err(WeightsError::Empty { path });
        }
        let content = content(&file, length, access).map_err(io)?;
        Ok(Self { path, file, content })
    }

    /// The file's name.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        match &self.content {
            Content::Mapped(map) => map,
            Content::Read(bytes) => bytes,
        }
    }

    /// Refuses a file whose length changed since it was mapped.
    ///
    /// # Errors
    ///
    /// [`WeightsError::Changed`].
    pub fn check_length(&self) -> Result<(), WeightsError> {
        let Content::Mapped(map) = &self.content else { return Ok(()) };
        let about = self.file.metadata();
        let now = about.map_err(|source| WeightsError::Io { doing: "read", path: self.path.clone(), source })?.len();
        match map.len() as u64 {
            opened if opened == now => Ok(()),
            opened => Err(WeightsError::Changed { path: self.path.clone(), opened, now }),
        }
    }
}

fn content(file: &File, length: u64, access: Access) -> std::io::Result<Content> {
    match access {
        Access::Mapped => {
            // SAFETY: the map is read-only and lives as long as its file handle. Another process that shortens the
            // file in place could make a read fault; `check_length` looks before each tensor is handed out, our own
            // writers replace files instead of changing them, and `Access::Read` exists for where that is not enough.
            Ok(Content::Mapped(unsafe { Mmap::map(file)? }))
        }
        Access::Read => {
            let mut bytes = Vec::new();
            file.take(length).read_to_end(&mut bytes)?;
            Ok(Content::Read(bytes))
        }
    }
}
