//! The environment variables of the Hub's own tools, read once into a struct.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use super::HubError;

/// Where the Hub and its cache are, and whether to go there.
#[derive(Clone, PartialEq, Eq)]
pub struct HubEnv {
    /// The cache folder.
    pub cache: PathBuf,
    /// The Hub's address, without a slash at its end.
    pub endpoint: String,
    /// The user's token; never shown.
    pub token: Option<String>,
    /// Whether the network is forbidden.
    pub offline: bool,
    /// The folder of the model that comes with Bowline.
    pub bundled: PathBuf,
}

impl fmt::Debug for HubEnv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = self.token.as_ref().map(|_| "(hidden)");
        f.debug_struct("HubEnv")
            .field("cache", &self.cache)
            .field("endpoint", &self.endpoint)
            .field("token", &token)
            .field("offline", &self.offline)
            .field("bundled", &self.bundled)
            .finish()
    }
}

impl HubEnv {
    /// From the process environment.
    ///
    /// # Errors
    ///
    /// As [`HubEnv::from_lookup`].
    pub fn from_env() -> Result<Self, HubError> {
        Self::from_lookup(|name| std::env::var_os(name))
    }

    /// From any source of variables; an empty one counts as absent.
    ///
    /// Cache: `HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE`, `HF_HOME/hub`, `XDG_CACHE_HOME/huggingface/hub`,
    /// `~/.cache/huggingface/hub`. Token: `HF_TOKEN`, `HUGGING_FACE_HUB_TOKEN`, the file `HF_TOKEN_PATH` or
    /// `HF_HOME/token`, none with `HF_HUB_DISABLE_IMPLICIT_TOKEN`. Address: `HF_ENDPOINT`. `HF_HUB_OFFLINE` (or
    /// `TRANSFORMERS_OFFLINE`) of 1, ON, YES or TRUE forbids the network. `BOWLINE_BUNDLED` is another place for the
    /// bundled model, for a binary that was moved away from its source.
    ///
    /// # Errors
    ///
    /// [`HubError::BadName`] for an address that is not http or https, or a token that cannot be sent.
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<OsString>) -> Result<Self, HubError> {
        let value = |name: &str| lookup(name).filter(|v| !v.is_empty());
        let text = |name: &str| value(name).map(|v| v.to_string_lossy().trim().to_owned());
        let switched = |name: &str| text(name).is_some_and(|v| is_on(&v));
        let user = value("HOME").map(PathBuf::from);
        let path = |name: &str| value(name).map(|v| expanded(PathBuf::from(v), user.as_deref()));

        let caches = path("XDG_CACHE_HOME").unwrap_or_else(|| user.clone().unwrap_or_default().join(".cache"));
        let home = path("HF_HOME").unwrap_or_else(|| caches.join("huggingface"));
        let cache = path("HF_HUB_CACHE").or_else(|| path("HUGGINGFACE_HUB_CACHE")).unwrap_or_else(|| home.join("hub"));
        let stored = || {
            let file = path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
            fs::read_to_string(file).ok().map(|t| t.trim().to_owned()).filter(|t| !t.is_empty())
        };
        let token = match switched("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
            true => None,
            false => text("HF_TOKEN").or_else(|| text("HUGGING_FACE_HUB_TOKEN")).or_else(stored),
        };
        let endpoint = text("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into());
        let bundled = path("BOWLINE_BUNDLED")
            .unwrap_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/experiments/assets/base")));
        let offline = switched("HF_HUB_OFFLINE") || switched("TRANSFORMERS_OFFLINE");
        Self { cache, endpoint: endpoint.trim_end_matches('/').to_owned(), token, offline, bundled }.checked()
    }

    fn checked(self) -> Result<Self, HubError> {
        let refuse = |what, value: &str, reason| Err(HubError::BadName { what, value: value.to_owned(), reason });
        let host = self.endpoint.strip_prefix("https://").or_else(|| self.endpoint.strip_prefix("http://"));
        if host.is_none_or(str::is_empty) || self.endpoint.contains(char::is_whitespace) {
            return refuse("HF_ENDPOINT", &self.endpoint, "is not an http or https address");
        }
        if self.token.as_ref().is_some_and(|token| !token.bytes().all(|b| b.is_ascii_graphic())) {
            return refuse("the Hub token", "", "has characters that a token cannot have");
        }
        Ok(self)
    }
}

/// Python's rule for a switch.
fn is_on(value: &str) -> bool {
    ["1", "ON", "YES", "TRUE"].iter().any(|on| value.eq_ignore_ascii_case(on))
}

/// `~/x` under the user's home.
fn expanded(path: PathBuf, user: Option<&Path>) -> PathBuf {
    match (path.strip_prefix("~"), user) {
        (Ok(rest), Some(user)) => user.join(rest),
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(variables: &[(&str, &str)]) -> Result<HubEnv, HubError> {
        HubEnv::from_lookup(|name| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v)))
    }

    #[test]
    fn the_cache_is_where_python_looks_for_it() {
        let cache = |variables: &[(&str, &str)]| env(variables).unwrap().cache;
        let home = ("HOME", "/home/u");
        assert_eq!(cache(&[home]), Path::new("/home/u/.cache/huggingface/hub"));
        assert_eq!(cache(&[home, ("XDG_CACHE_HOME", "/x")]), Path::new("/x/huggingface/hub"));
        assert_eq!(cache(&[home, ("XDG_CACHE_HOME", "/x"), ("HF_HOME", "~/hf")]), Path::new("/home/u/hf/hub"));
        assert_eq!(cache(&[home, ("HF_HOME", "/hf"), ("HUGGINGFACE_HUB_CACHE", "/old")]), Path::new("/old"));
        let both = [home, ("HUGGINGFACE_HUB_CACHE", "/old"), ("HF_HUB_CACHE", "/new")];
        assert_eq!(cache(&both), Path::new("/new"));
        assert_eq!(cache(&[home, ("HF_HUB_CACHE", "")]), Path::new("/home/u/.cache/huggingface/hub"));
    }

    #[test]
    fn offline_is_read_as_python_reads_it() {
        for (value, expected) in [("1", true), ("on", true), ("Yes", true), ("TRUE", true), ("0", false), ("no", false)]
        {
            assert_eq!(env(&[("HF_HUB_OFFLINE", value)]).unwrap().offline, expected, "{value}");
        }
        assert!(!env(&[]).unwrap().offline);
    }

    #[test]
    fn the_token_comes_from_the_environment_or_its_file_and_is_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("token"), "hf_stored\n").unwrap();
        let home = ("HF_HOME", folder.path().to_str().unwrap());
        assert_eq!(env(&[home]).unwrap().token.unwrap(), "hf_stored");
        let given = env(&[home, ("HF_TOKEN", "hf_given")]).unwrap();
        assert_eq!(given.token.as_deref(), Some("hf_given"));
        assert!(!format!("{given:?}").contains("hf_given"));
        assert_eq!(env(&[home, ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]).unwrap().token, None);
        let error = env(&[("HF_TOKEN", "two words")]).unwrap_err();
        assert!(!error.to_string().contains("two words"), "{error}");
    }

    #[test]
    fn the_address_must_be_one() {
        assert_eq!(env(&[]).unwrap().endpoint, "https://huggingface.co");
        assert_eq!(env(&[("HF_ENDPOINT", "http://127.0.0.1:9/")]).unwrap().endpoint, "http://127.0.0.1:9");
        for wrong in ["ftp://x", "file:///etc", "x", "https://", "http://a b"] {
            assert!(env(&[("HF_ENDPOINT", wrong)]).is_err(), "{wrong}");
        }
    }
}
