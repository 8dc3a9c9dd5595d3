//! Names that become parts of paths and URLs, checked first: the user's, and those that the server sends.

use super::HubError;

/// The revision that is meant when none is given.
pub(super) const MAIN: &str = "main";

/// A Hub id: `NAME` or `ORG/NAME` of letters, digits, `-`, `_`, `.`, as the Hub itself allows them.
pub(super) fn check_id(id: &str) -> Result<(), HubError> {
    let refuse = |reason| Err(HubError::BadName { what: "the model id", value: id.to_owned(), reason });
    let parts: Vec<&str> = id.split('/').collect();
    if parts.len() > 2 || !parts.iter().all(|part| is_plain(part) && part.len() <= 96) {
        return refuse("is not of the form ORG/NAME");
    }
    let edge = |part: &&str| part.starts_with(['-', '.']) || part.ends_with(['-', '.']);
    // Two hyphens separate the parts in the cache's folder names.
    if parts.iter().any(edge) || id.contains("--") || id.contains("..") || id.ends_with(".git") {
        return refuse("is not a name that the Hub allows");
    }
    Ok(())
}

/// A branch, tag or commit: path components of plain characters.
pub(super) fn check_revision(revision: &str) -> Result<(), HubError> {
    match revision.len() <= 200 && revision.split('/').all(is_plain) {
        true => Ok(()),
        false => Err(HubError::BadName {
            what: "the revision",
            value: revision.to_owned(),
            reason: "is not a branch, tag or commit",
        }),
    }
}

/// Letters, digits, `-`, `_`, `.`; not empty, `.` or `..`. Safe as a path component and in a URL.
pub(super) fn is_plain(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !name.is_empty() && name.len() <= 200 && name != "." && name != ".." && name.chars().all(allowed)
}

/// A path inside the repository: normal components alone.
pub(super) fn stays_inside(name: &str) -> bool {
    !name.contains(['\\', '\0']) && name.split('/').all(|part| !matches!(part, "" | "." | ".."))
}

/// A SHA-256 in hexadecimal: the ETag, and so the blob's name, of a large file.
pub(super) fn is_sha256(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit())
}
