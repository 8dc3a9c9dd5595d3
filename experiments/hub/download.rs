//! One file from the Hub to its blob: asked about, resumed, checked, then named.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};
use ureq::Agent;
use ureq::config::RedirectAuthHeaders;
use ureq::http::{HeaderMap, Response, StatusCode, header};

use super::fetch::FetchProgress;
use super::names::{is_plain, is_sha256};
use super::{HubEnv, HubError};
use crate::atomic;

/// How often one call takes up a broken-off body again.
const ATTEMPTS: u32 = 3;

/// How many redirections within the Hub are followed when asking about a file.
const MAX_HOPS: usize = 5;

/// What the Hub says about a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct About {
    /// The commit that was served.
    pub(super) commit: String,
    /// The blob's name: SHA-256 of a large file, git's hash of a small one.
    pub(super) etag: String,
    /// Length in bytes.
    pub(super) size: u64,
}

/// Two clients: one that follows redirections, without the token where they leave the host, and one that shows them.
pub(super) struct Client<'a> {
    env: &'a HubEnv,
    following: Agent,
    showing: Agent,
}

impl<'a> Client<'a> {
    pub(super) fn new(env: &'a HubEnv) -> Self {
        let base = || {
            Agent::config_builder()
                .timeout_connect(Some(Duration::from_secs(20)))
                .timeout_recv_response(Some(Duration::from_secs(60)))
                .redirect_auth_headers(RedirectAuthHeaders::SameHost)
                .user_agent(concat!("bowline/", env!("CARGO_PKG_VERSION")))
        };
        Self { env, following: base().build().into(), showing: base().max_redirects(0).build().into() }
    }

    /// Commit, ETag and length of the file at `url`.
    ///
    /// A large file answers with a redirection to another host; what the Hub itself says before that counts.
    pub(super) fn about(&self, url: &str, file: &str) -> Result<About, HubError> {
        let first = [("Range", "bytes=0-0")];
        let mut at = url.to_owned();
        for _ in 0..MAX_HOPS {
            let response = self.get(&self.showing, &at, &first, true, file)?;
            let headers = response.headers();
            let target = response.status().is_redirection().then(|| text_of(headers, "location")).flatten();
            match target {
                Some(path) if path.starts_with('/') && !path.starts_with("//") => at = self.within(&path),
                Some(other) if other.starts_with(&format!("{}/", self.env.endpoint)) => at = other,
                other => return self.described(response, other, file),
            }
        }
        Err(self.distrusted(file, "the chain of redirections", at))
    }

    fn described(&self, response: Response<ureq::Body>, target: Option<String>, file: &str) -> Result<About, HubError> {
        let headers = response.headers();
        let etag = text_of(headers, "x-linked-etag").or_else(|| text_of(headers, "etag")).unwrap_or_default();
        let etag = etag.trim_start_matches("W/").trim_matches('"').to_owned();
        let commit = text_of(headers, "x-repo-commit").unwrap_or_default();
        // Both become parts of paths.
        if !is_plain(&etag) {
            return Err(self.distrusted(file, "the ETag", etag));
        }
        if !is_plain(&commit) {
            return Err(self.distrusted(file, "the commit", commit));
        }
        let linked = text_of(headers, "x-linked-size").and_then(|size| size.parse().ok());
        let size = match (linked, target) {
            (Some(size), _) => Some(size),
            (None, None) => length_of(&response),
            (None, Some(elsewhere)) => {
                length_of(&self.get(&self.following, &elsewhere, &[("Range", "bytes=0-0")], false, file)?)
            }
        };
        let size = size.ok_or_else(|| self.distrusted(file, "the length", "absent".into()))?;
        Ok(About { commit, etag, size })
    }

    /// Brings the file to `blob`, going on where an earlier attempt stopped.
    ///
    /// Until it is complete and, for a large file, its SHA-256 agrees, it is called `ETAG.incomplete`.
    pub(super) fn bring(
        &self,
        url: &str,
        file: &str,
        about: &About,
        blob: &Path,
        progress: &mut dyn FetchProgress,
    ) -> Result<(), HubError> {
        let part = PathBuf::from(format!("{}.incomplete", blob.display()));
        let failed = |source| HubError::Io { doing: "write", path: part.clone(), source };
        let mut out = OpenOptions::new().create(true).append(true).open(&part).map_err(failed)?;
        if out.metadata().map_err(failed)?.len() > about.size {
            out.set_len(0).map_err(failed)?;
        }
        progress.begin(file, about.size, out.metadata().map_err(failed)?.len());
        let mut reason = String::from("the server sent too little");
        for attempt in 0..ATTEMPTS {
            let have = out.metadata().map_err(failed)?.len();
            if have == about.size {
                break;
            }
            if attempt > 0 {
                std::thread::sleep(Duration::from_millis(300 << attempt));
            }
            if let Some(why) = self.append(url, file, have, about.size, &mut out, progress)? {
                reason = why;
            }
        }
        let received = out.metadata().map_err(failed)?.len();
        if received > about.size {
            // Nothing of it can be trusted to be the file.
            out.set_len(0).map_err(failed)?;
            return Err(self.distrusted(file, "a body longer than", format!("{} bytes", about.size)));
        }
        if received < about.size {
            return Err(HubError::BrokenOff { file: file.to_owned(), received, expected: about.size, reason });
        }
        verify(&part, file, &about.etag)?;
        out.sync_all().and_then(|()| fs::rename(&part, blob)).map_err(failed)?;
        atomic::sync_folder(blob.parent().unwrap_or(Path::new("."))).map_err(failed)?;
        progress.end();
        Ok(())
    }

    /// Appends what is missing; `Some` with the reason when the body broke off.
    fn append(
        &self,
        url: &str,
        file: &str,
        have: u64,
        size: u64,
        out: &mut File,
        progress: &mut dyn FetchProgress,
    ) -> Result<Option<String>, HubError> {
        let range = format!("bytes={have}-");
        let range = [("Range", range.as_str())];
        let response = self.get(&self.following, url, if have > 0 { &range } else { &[] }, true, file)?;
        let failed = |source| HubError::Io { doing: "write", path: file.into(), source };
        let mut start = have;
        if response.status() != StatusCode::PARTIAL_CONTENT {
            // The whole file, whatever was asked for.
            out.set_len(0).map_err(failed)?;
            start = 0;
            if have > 0 {
                progress.begin(file, size, 0);
            }
        } else if !starts_at(&response, have) {
            return Err(self.distrusted(
                file,
                "the range",
                text_of(response.headers(), "content-range").unwrap_or_default(),
            ));
        }
        // One byte more than there should be is enough to see that there are too many.
        let mut body = response.into_body().into_reader().take(size - start + 1);
        let mut buffer = vec![0; 1 << 16];
        loop {
            match body.read(&mut buffer) {
                Ok(0) => return Ok(None),
                Ok(count) => {
                    out.write_all(&buffer[..count]).map_err(failed)?;
                    progress.advance(count as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Ok(Some(error.to_string())),
            }
        }
    }

    fn get(
        &self,
        agent: &Agent,
        url: &str,
        headers: &[(&str, &str)],
        with_token: bool,
        file: &str,
    ) -> Result<Response<ureq::Body>, HubError> {
        // Compressed on the way, neither length nor range would be the file's.
        let mut request = agent.get(url).header(header::ACCEPT_ENCODING, "identity");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(token) = self.env.token.as_ref().filter(|_| with_token) {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        request.call().map_err(|error| refusal(self.env, file, &error))
    }

    /// The address of a path on the Hub.
    fn within(&self, path: &str) -> String {
        let scheme = self.env.endpoint.find("://").map_or(0, |at| at + 3);
        let host = self.env.endpoint[scheme..].find('/').map_or(self.env.endpoint.len(), |at| scheme + at);
        format!("{}{path}", &self.env.endpoint[..host])
    }

    fn distrusted(&self, file: &str, what: &str, value: String) -> HubError {
        HubError::Distrusted { id: file.to_owned(), what: what.to_owned(), value }
    }
}

/// Turns a failed request into a sentence.
pub(super) fn refusal(env: &HubEnv, what: &str, error: &ureq::Error) -> HubError {
    let ureq::Error::StatusCode(status) = *error else {
        let reason = error.to_string();
        return HubError::Unreachable { endpoint: env.endpoint.clone(), what: what.to_owned(), reason };
    };
    let hint = match status {
        401 | 403 => "it does not exist, is private, or its licence must be accepted on its page; set HF_TOKEN",
        404 => "there is no such model, revision or file",
        429 => "too many requests; wait a little, or set HF_TOKEN",
        500.. => "the server has a problem; try again later",
        _ => "the request was not accepted",
    };
    HubError::Refused { status, what: what.to_owned(), hint }
}

fn text_of(headers: &HeaderMap, name: &str) -> Option<String> {
    Some(headers.get(name)?.to_str().ok()?.to_owned())
}

/// The whole file's length, from an answer to a request for its first byte.
fn length_of(response: &Response<ureq::Body>) -> Option<u64> {
    let headers = response.headers();
    match response.status() {
        StatusCode::PARTIAL_CONTENT => text_of(headers, "content-range")?.rsplit('/').next()?.parse().ok(),
        _ => text_of(headers, "content-length")?.parse().ok(),
    }
}

fn starts_at(response: &Response<ureq::Body>, start: u64) -> bool {
    text_of(response.headers(), "content-range").is_some_and(|range| range.starts_with(&format!("bytes {start}-")))
}

/// Compares the content with an ETag that is a SHA-256, and removes it when they differ.
fn verify(part: &Path, file: &str, etag: &str) -> Result<(), HubError> {
    if !is_sha256(etag) {
        return Ok(());
    }
    let failed = |source| HubError::Io { doing: "read", path: part.to_path_buf(), source };
    let mut hasher = Sha256::new();
    let mut reader = File::open(part).map_err(failed)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match reader.read(&mut buffer).map_err(failed)? {
            0 => break,
            count => hasher.update(&buffer[..count]),
        }
    }
    let found: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    if found.eq_ignore_ascii_case(etag) {
        return Ok(());
    }
    fs::remove_file(part).map_err(failed)?;
    Err(HubError::WrongHash { file: file.to_owned(), expected: etag.to_owned(), found })
}
