//! `bowline fetch`: the files of one revision into the cache, current only when they are all there.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};

use hf_hub::api::sync::{ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};

use super::cache::{self, RepoFolder};
use super::download::{Client, refusal};
use super::names::{MAIN, check_id, check_revision, is_plain, stays_inside};
use super::{HubEnv, HubError, ModelFiles, ModelSource};
use crate::model::weights::{INDEX_NAME, SINGLE_NAME};

/// The files beside the weights that are worth having, in the order in which they are brought.
const COMPANIONS: [&str; 8] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "tokenizer.model",
];

/// Who is told how a download goes.
pub trait FetchProgress {
    /// A file of `bytes` begins, or begins anew; `already` of them are here from an earlier attempt.
    fn begin(&mut self, file: &str, bytes: u64, already: u64);
    /// So many more bytes have come.
    fn advance(&mut self, bytes: u64);
    /// The file is complete.
    fn end(&mut self);
}

/// Nobody is told.
impl FetchProgress for () {
    fn begin(&mut self, _file: &str, _bytes: u64, _already: u64) {}
    fn advance(&mut self, _bytes: u64) {}
    fn end(&mut self) {}
}

/// Fetches by the process environment; see [`fetch_with`].
///
/// # Errors
///
/// As [`fetch_with`].
pub fn fetch(id: &str, revision: Option<&str>, progress: &mut dyn FetchProgress) -> Result<ModelFiles, HubError> {
    fetch_with(&HubEnv::from_env()?, id, revision, progress)
}

/// Brings configuration, tokenizer and safetensors of `id` at `revision` (`main` by default) into the cache.
///
/// Files that the cache has are not brought again; a broken-off one is resumed. Pickles are never brought. The
/// reference `refs/REVISION` is written last, so a snapshot that is not complete is never found under its name. With
/// `HF_HUB_OFFLINE`, or when the Hub cannot be reached, a complete snapshot in the cache serves.
///
/// # Errors
///
/// [`HubError`].
pub fn fetch_with(
    env: &HubEnv,
    id: &str,
    revision: Option<&str>,
    progress: &mut dyn FetchProgress,
) -> Result<ModelFiles, HubError> {
    let revision = revision.unwrap_or(MAIN);
    check_id(id)?;
    check_revision(revision)?;
    let cached = || cache::complete_snapshot(env, id, revision);
    if env.offline {
        return cached()?.ok_or_else(|| HubError::Offline { id: id.to_owned(), cache: env.cache.clone() });
    }
    let job = Job::new(env, id, revision)?;
    let listing = match job.listing() {
        Err(error @ HubError::Unreachable { .. }) => return cached().ok().flatten().ok_or(error),
        other => other?,
    };
    job.bring_all(&listing, progress)?;
    let dir = job.folder.snapshot(&listing.commit);
    let missing = cache::missing_files(&dir)?;
    if !missing.is_empty() {
        return Err(HubError::Incomplete { id: id.to_owned(), missing });
    }
    job.folder.point(revision, &listing.commit)?;
    Ok(ModelFiles { dir, id: id.to_owned(), source: ModelSource::Cache { commit: listing.commit } })
}

/// One commit's file names, every one checked to stay inside the repository.
struct Listing {
    commit: String,
    files: BTreeSet<String>,
}

struct Job<'a> {
    env: &'a HubEnv,
    id: &'a str,
    remote: ApiRepo,
    client: Client<'a>,
    folder: RepoFolder,
}

impl<'a> Job<'a> {
    fn new(env: &'a HubEnv, id: &'a str, revision: &str) -> Result<Self, HubError> {
        // Not from_env: that reads HF_HOME and HF_ENDPOINT alone.
        let api = ApiBuilder::from_cache(Cache::new(env.cache.clone()))
            .with_endpoint(env.endpoint.clone())
            .with_token(env.token.clone())
            .with_progress(false)
            .build()
            .map_err(|error| listing_failed(env, id, error))?;
        let remote = api.repo(Repo::with_revision(id.to_owned(), RepoType::Model, revision.to_owned()));
        Ok(Self { env, id, remote, client: Client::new(env), folder: RepoFolder::of(env, id) })
    }

    fn listing(&self) -> Result<Listing, HubError> {
        let info = self.remote.info().map_err(|error| listing_failed(self.env, self.id, error))?;
        if !is_plain(&info.sha) {
            return Err(self.distrusted("the commit", info.sha));
        }
        let files: BTreeSet<String> = info.siblings.into_iter().map(|sibling| sibling.rfilename).collect();
        match files.iter().find(|name| !stays_inside(name)) {
            Some(name) => Err(self.distrusted("a file name", name.clone())),
            None => Ok(Listing { commit: info.sha, files }),
        }
    }

    fn bring_all(&self, listing: &Listing, progress: &mut dyn FetchProgress) -> Result<(), HubError> {
        let has = |name: &str| listing.files.contains(name);
        if !has("config.json") {
            return Err(self.lacks("config.json".into()));
        }
        if !has(SINGLE_NAME) && !has(INDEX_NAME) {
            return Err(self.lacks(weights_hint(&listing.files)));
        }
        for name in COMPANIONS.into_iter().filter(|name| has(name)) {
            self.bring(listing, name, progress)?;
        }
        if has(SINGLE_NAME) {
            return self.bring(listing, SINGLE_NAME, progress);
        }
        self.bring(listing, INDEX_NAME, progress)?;
        let shards = cache::shard_names(&self.folder.snapshot(&listing.commit).join(INDEX_NAME))?;
        if let Some(absent) = shards.iter().find(|name| !has(name)) {
            return Err(self.lacks(format!("{absent}, which its index names")));
        }
        shards.iter().try_for_each(|name| self.bring(listing, name, progress))
    }

    /// One file, unless the snapshot has it.
    fn bring(&self, listing: &Listing, name: &str, progress: &mut dyn FetchProgress) -> Result<(), HubError> {
        if self.folder.snapshot(&listing.commit).join(name).is_file() {
            return Ok(());
        }
        let url = self.remote.url(name);
        let about = self.client.about(&url, name)?;
        if about.commit != listing.commit {
            let (listed, served) = (listing.commit.clone(), about.commit);
            return Err(HubError::Moved { id: self.id.to_owned(), listed, served });
        }
        let blob = self.folder.blob(&about.etag);
        let lock = self.folder.lock(&about.etag);
        let failed = |source| HubError::Io { doing: "write", path: lock.clone(), source };
        for path in [&blob, &lock] {
            fs::create_dir_all(path.parent().unwrap_or(path)).map_err(failed)?;
        }
        // Held until the end of the function; another process that wants the same file waits, then finds it.
        let held = OpenOptions::new().create(true).append(true).open(&lock).map_err(failed)?;
        held.lock().map_err(failed)?;
        if !blob.is_file() {
            self.client.bring(&url, name, &about, &blob, progress)?;
        }
        self.folder.link(&listing.commit, name, &about.etag)
    }

    fn lacks(&self, what: String) -> HubError {
        HubError::Lacks { id: self.id.to_owned(), what }
    }

    fn distrusted(&self, what: &str, value: String) -> HubError {
        HubError::Distrusted { id: self.id.to_owned(), what: what.to_owned(), value }
    }
}

/// What to say of a repository without safetensors.
fn weights_hint(files: &BTreeSet<String>) -> String {
    let pickle = files.iter().find(|name| [".bin", ".pt", ".pth"].iter().any(|suffix| name.ends_with(suffix)));
    match pickle {
        Some(name) => {
            format!("safetensors, only {name} and the like, which can run code when loaded and are not fetched")
        }
        None => format!("{SINGLE_NAME} and no {INDEX_NAME}"),
    }
}

fn listing_failed(env: &HubEnv, id: &str, error: ApiError) -> HubError {
    match error {
        ApiError::RequestError(error) => match *error {
            // Also what a page in place of the listing ends in.
            ureq::Error::Json(_) => HubError::Distrusted {
                id: id.to_owned(),
                what: "the listing".into(),
                value: "not the JSON of a model".into(),
            },
            error => refusal(env, id, &error),
        },
        other => {
            HubError::Unreachable { endpoint: env.endpoint.clone(), what: id.to_owned(), reason: other.to_string() }
        }
    }
}
