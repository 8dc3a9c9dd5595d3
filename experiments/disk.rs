//! The operations that make a file or folder whole or absent, one by one, so that a test can make each of them fail.
//!
//! A test [`inject`]s a failure at the N-th operation for every N until nothing fails, and looks each time at what is
//! left on the disk, as SQLite tests its journal. Faults belong to the thread that asked for them; without any, an
//! operation costs a look at a thread-local.

use std::cell::RefCell;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

/// What is done to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// A file or folder is made.
    Make,
    /// Bytes are written to a file.
    Write,
    /// A file or folder is flushed.
    Sync,
    /// A file or folder gets another name.
    Rename,
    /// A file or folder is removed.
    Remove,
}

/// What fails, and what comes after.
#[derive(Debug, Clone)]
pub struct Faults {
    /// Only operations on paths below this folder are counted and can fail.
    pub under: PathBuf,
    /// The operation that fails, counted from 1; 0: none, they are only written down.
    pub at: u64,
    /// The system's reason.
    pub reason: Errno,
    /// Whether every later operation fails, too, as if the process had died there: nothing is cleaned up then.
    pub dead: bool,
}

/// Faults in force until it is dropped.
#[derive(Debug)]
pub struct Injection(());

struct InForce {
    faults: Faults,
    done: Vec<(Operation, PathBuf)>,
}

thread_local! {
    static IN_FORCE: RefCell<Option<InForce>> = const { RefCell::new(None) };
}

/// Puts faults in force on this thread, in place of earlier ones.
pub fn inject(faults: Faults) -> Injection {
    IN_FORCE.set(Some(InForce { faults, done: Vec::new() }));
    Injection(())
}

impl Injection {
    /// The operations tried so far, those that failed included.
    pub fn operations(&self) -> Vec<(Operation, PathBuf)> {
        IN_FORCE.with_borrow(|it| it.as_ref().map(|it| it.done.clone()).unwrap_or_default())
    }

    /// Whether the fault has struck.
    pub fn struck(&self) -> bool {
        IN_FORCE
            .with_borrow(|it| it.as_ref().is_some_and(|it| it.faults.at > 0 && it.done.len() as u64 >= it.faults.at))
    }
}

impl Drop for Injection {
    fn drop(&mut self) {
        IN_FORCE.set(None);
    }
}

/// Fails where a fault was asked for.
fn admit(operation: Operation, path: &Path) -> io::Result<()> {
    IN_FORCE.with_borrow_mut(|it| {
        let Some(InForce { faults, done }) = it.as_mut().filter(|it| path.starts_with(&it.faults.under)) else {
            return Ok(());
        };
        done.push((operation, path.to_owned()));
        let count = done.len() as u64;
        match count == faults.at || (faults.dead && faults.at > 0 && count > faults.at) {
            true => Err(faults.reason.into()),
            false => Ok(()),
        }
    })
}

/// A new file for writing; an existing one is an error.
///
/// # Errors
///
/// As the system says.
pub fn create_new(path: &Path) -> io::Result<Output> {
    admit(Operation::Make, path)?;
    let file = OpenOptions::new().write(true).create_new(true).open(path)?;
    Ok(Output { file, path: path.to_owned() })
}

/// A file being written.
#[derive(Debug)]
pub struct Output {
    file: File,
    path: PathBuf,
}

impl Output {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Flushes it to the disk.
    ///
    /// # Errors
    ///
    /// As the system says.
    pub fn sync(&self) -> io::Result<()> {
        admit(Operation::Sync, &self.path)?;
        self.file.sync_all()
    }
}

impl Write for &Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut file = &self.file;
        admit(Operation::Write, &self.path).inspect_err(|_| {
            // A disk that fills up takes a part.
            let _ = file.write(&bytes[..bytes.len() / 2]);
        })?;
        file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Flushes a file or folder that is written already to the disk.
///
/// # Errors
///
/// As the system says.
pub fn sync(path: &Path) -> io::Result<()> {
    admit(Operation::Sync, path)?;
    File::open(path)?.sync_all()
}

/// Makes a folder, whose parent is there.
///
/// # Errors
///
/// As the system says.
pub fn make_folder(path: &Path) -> io::Result<()> {
    admit(Operation::Make, path)?;
    fs::create_dir(path)
}

/// Copies the content of a regular file to a new one.
///
/// # Errors
///
/// As the system says.
pub fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut source = File::open(from)?;
    let copied = create_new(to)?;
    io::copy(&mut source, &mut &copied).map(drop)
}

/// Gives a file or folder another name, in place of what may have it.
///
/// # Errors
///
/// As the system says.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    admit(Operation::Rename, to)?;
    fs::rename(from, to)
}

/// Removes a file.
///
/// # Errors
///
/// As the system says.
pub fn remove_file(path: &Path) -> io::Result<()> {
    admit(Operation::Remove, path)?;
    fs::remove_file(path)
}

/// Removes a folder and all that is in it. One that fails in between, as a killed process does, has removed a part.
///
/// # Errors
///
/// As the system says.
pub fn remove_folder(path: &Path) -> io::Result<()> {
    admit(Operation::Remove, path).inspect_err(|_| {
        let first = fs::read_dir(path).into_iter().flatten().flatten().find(|entry| entry.path().is_file());
        let _ = first.map(|entry| fs::remove_file(entry.path()));
    })?;
    fs::remove_dir_all(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(under: &Path, at: u64, dead: bool) -> Injection {
        inject(Faults { under: under.to_owned(), at, reason: Errno::NOSPC, dead })
    }

    fn make(folder: &Path, name: &str) -> io::Result<()> {
        let out = create_new(&folder.join(name))?;
        (&out).write_all(b"content")?;
        out.sync()
    }

    #[test]
    fn the_operation_that_was_asked_for_fails_and_the_next_ones_go_on() {
        let home = tempfile::tempdir().unwrap();
        let injection = faults(home.path(), 2, false);
        assert_eq!(make(home.path(), "a").unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(fs::read(home.path().join("a")).unwrap(), b"con", "half of it was written");
        make(home.path(), "b").unwrap();
        assert!(injection.struck());
        let kinds: Vec<Operation> = injection.operations().iter().map(|(operation, _)| *operation).collect();
        use Operation::*;
        assert_eq!(kinds, [Make, Write, Make, Write, Sync]);
    }

    #[test]
    fn after_a_death_everything_fails_until_the_faults_are_lifted() {
        let home = tempfile::tempdir().unwrap();
        let injection = faults(home.path(), 3, true);
        assert!(make(home.path(), "a").is_err() && make(home.path(), "b").is_err());
        assert!(remove_file(&home.path().join("a")).is_err() && home.path().join("a").exists());
        drop(injection);
        make(home.path(), "b").unwrap();
    }

    #[test]
    fn other_folders_and_other_threads_are_spared() {
        let (home, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let injection = faults(home.path(), 1, true);
        make(other.path(), "a").unwrap();
        std::thread::scope(|scope| scope.spawn(|| make(home.path(), "a").unwrap()).join().unwrap());
        assert!(injection.operations().is_empty() && !injection.struck());
    }
}
