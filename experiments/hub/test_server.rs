//! A server on the loopback interface that answers as the Hub does, and misbehaves on demand.
//!
//! As the Hub: small files by a relative redirection and git's hash as ETag; large ones by a redirection to another
//! host name with `X-Linked-Etag` (SHA-256) and `X-Linked-Size`; `X-Repo-Commit` on both; byte ranges.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use sha2::{Digest, Sha256};

pub(super) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// What the server has and how it is to behave.
#[derive(Default)]
pub(super) struct Behaviour {
    /// File name to content; `.safetensors` are large files.
    pub(super) files: BTreeMap<String, Vec<u8>>,
    /// More names for the listing.
    pub(super) listed: Vec<String>,
    /// Commit in the listing, when not [`COMMIT`].
    pub(super) listed_commit: Option<String>,
    /// ETag of every small file, when not the usual one.
    pub(super) etag: Option<String>,
    /// `X-Repo-Commit`, when not [`COMMIT`].
    pub(super) served_commit: Option<String>,
    /// Bodies of at least this many bytes end after so many, as long as `breaks` lasts.
    pub(super) break_after: usize,
    pub(super) breaks: usize,
    /// Leaves out the length, so that a broken-off body looks complete to a client that counts nothing.
    pub(super) hide_length: bool,
    /// Answers every range with the whole file.
    pub(super) ignore_ranges: bool,
    /// Changes one byte of every large body.
    pub(super) corrupt: bool,
    /// Refuses everything with this status.
    pub(super) status: Option<u16>,
    /// Sends this instead of the listing.
    pub(super) listing: Option<String>,
    /// Every request: path, range, and whether it bore the token.
    pub(super) seen: Vec<(String, String, bool)>,
}

pub(super) struct Server {
    pub(super) port: u16,
    pub(super) behaviour: Arc<Mutex<Behaviour>>,
}

impl Server {
    pub(super) fn start(files: &[(&str, &[u8])]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let files = files.iter().map(|(name, content)| (name.to_string(), content.to_vec())).collect();
        let behaviour = Arc::new(Mutex::new(Behaviour { files, ..Behaviour::default() }));
        let shared = Arc::clone(&behaviour);
        // Ends with the test process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = answer(stream, port, &mut shared.lock().unwrap());
            }
        });
        Self { port, behaviour }
    }

    pub(super) fn set(&self, edit: impl FnOnce(&mut Behaviour)) {
        edit(&mut self.behaviour.lock().unwrap());
    }

    /// Requests whose path starts so, then forgets all.
    pub(super) fn taken(&self, start: &str) -> Vec<(String, String, bool)> {
        let seen = std::mem::take(&mut self.behaviour.lock().unwrap().seen);
        seen.into_iter().filter(|(path, _, _)| path.starts_with(start)).collect()
    }
}

fn answer(mut stream: TcpStream, port: u16, behaviour: &mut Behaviour) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let (mut range, mut token) = (String::new(), false);
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let lower = line.trim().to_ascii_lowercase();
        match lower.split_once(": ") {
            Some(("range", value)) => range = value.to_owned(),
            Some(("authorization", value)) => token = value == "bearer secret",
            Some(_) => {}
            None => break,
        }
    }
    behaviour.seen.push((path.clone(), range.clone(), token));
    if let Some(status) = behaviour.status {
        return write!(stream, "HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    if path.starts_with("/api/models/") {
        return listing(&mut stream, behaviour);
    }
    let name = path.rsplit('/').next().unwrap_or_default().to_owned();
    let Some(content) = behaviour.files.get(&name).cloned() else {
        return write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    };
    if path.starts_with("/cdn/") || path.starts_with("/small/") {
        return body(&mut stream, &path, &range, content, behaviour);
    }
    redirect(&mut stream, port, &name, &content, behaviour)
}

fn listing(stream: &mut TcpStream, behaviour: &Behaviour) -> std::io::Result<()> {
    let names = behaviour.files.keys().chain(&behaviour.listed);
    let siblings: Vec<_> = names.map(|name| serde_json::json!({ "rfilename": name })).collect();
    let sha = behaviour.listed_commit.as_deref().unwrap_or(COMMIT);
    let usual = serde_json::json!({ "id": "org/tiny", "sha": sha, "siblings": siblings }).to_string();
    let text = behaviour.listing.clone().unwrap_or(usual);
    let length = text.len();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{text}"
    )
}

fn redirect(
    stream: &mut TcpStream,
    port: u16,
    name: &str,
    content: &[u8],
    behaviour: &Behaviour,
) -> std::io::Result<()> {
    let commit = behaviour.served_commit.as_deref().unwrap_or(COMMIT);
    let head = format!("X-Repo-Commit: {commit}\r\nContent-Length: 0\r\nConnection: close\r\n");
    if name.ends_with(".safetensors") {
        let (hash, size) = (sha256(content), content.len());
        return write!(
            stream,
            "HTTP/1.1 302 Found\r\nLocation: http://localhost:{port}/cdn/{name}\r\nX-Linked-Etag: \"{hash}\"\r\n\
             X-Linked-Size: {size}\r\n{head}\r\n"
        );
    }
    write!(stream, "HTTP/1.1 307 Temporary Redirect\r\nLocation: /small/{name}\r\n{head}\r\n")
}

fn body(
    stream: &mut TcpStream,
    path: &str,
    range: &str,
    mut content: Vec<u8>,
    behaviour: &mut Behaviour,
) -> std::io::Result<()> {
    let size = content.len();
    let large = path.starts_with("/cdn/");
    let etag = behaviour.etag.clone().filter(|_| !large).unwrap_or_else(|| sha256(&content)[..40].to_owned());
    if behaviour.corrupt && large {
        content[size - 1] ^= 1;
    }
    let asked = range.strip_prefix("bytes=").and_then(|r| r.split_once('-')).filter(|_| !behaviour.ignore_ranges);
    let (start, end) = match asked {
        Some((start, end)) => (start.parse().unwrap_or(0), end.parse::<usize>().map_or(size, |end| size.min(end + 1))),
        None => (0, size),
    };
    let status = if asked.is_some() { "206 Partial Content" } else { "200 OK" };
    let commit = behaviour.served_commit.as_deref().unwrap_or(COMMIT);
    write!(stream, "HTTP/1.1 {status}\r\nETag: \"{etag}\"\r\nX-Repo-Commit: {commit}\r\nConnection: close\r\n")?;
    if asked.is_some() {
        write!(stream, "Content-Range: bytes {start}-{}/{size}\r\n", end.max(1) - 1)?;
    }
    if !behaviour.hide_length {
        write!(stream, "Content-Length: {}\r\n", end - start)?;
    }
    stream.write_all(b"\r\n")?;
    let mut sent = &content[start..end];
    if large && behaviour.breaks > 0 && sent.len() >= behaviour.break_after.max(2) {
        behaviour.breaks -= 1;
        sent = &sent[..behaviour.break_after];
    }
    stream.write_all(sent)
}

pub(super) fn sha256(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}
