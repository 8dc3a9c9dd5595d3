//! Names to folders, and fetching from a server that answers as the Hub does.

use std::fs;

use super::names::{check_id, check_revision, stays_inside};
use super::test_server::{COMMIT, Server, sha256};
use super::*;
use crate::model::weights::{Checkpoint, Dtype, INDEX_NAME, write_sharded};

/// A small sharded checkpoint as (name, content).
fn sharded_files() -> Vec<(String, Vec<u8>)> {
    let folder = tempfile::tempdir().unwrap();
    let tensor = |name: &str| (name.to_owned(), Dtype::F32, vec![100, 10], vec![name.len() as u8; 4000]);
    write_sharded(folder.path(), [tensor("a"), tensor("bb"), tensor("ccc")], 4000).unwrap();
    fs::write(folder.path().join("config.json"), "{\"model_type\": \"llama\"}").unwrap();
    fs::write(folder.path().join("tokenizer.json"), "{\"model\": {}}").unwrap();
    let read = |entry: fs::DirEntry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap());
    fs::read_dir(folder.path()).unwrap().map(|entry| read(entry.unwrap())).collect()
}

fn serving(files: &[(String, Vec<u8>)]) -> (Server, HubEnv, tempfile::TempDir) {
    let borrowed: Vec<(&str, &[u8])> = files.iter().map(|(n, c)| (n.as_str(), c.as_slice())).collect();
    let server = Server::start(&borrowed);
    let cache = tempfile::tempdir().unwrap();
    let env = HubEnv {
        cache: cache.path().join("hub"),
        endpoint: format!("http://127.0.0.1:{}", server.port),
        token: None,
        offline: false,
        bundled: cache.path().join("bundled"),
    };
    (server, env, cache)
}

fn get(env: &HubEnv) -> Result<ModelFiles, HubError> {
    fetch_with(env, "org/tiny", None, &mut ())
}

const SHARD: &str = "model-00002-of-00003.safetensors";

/// Nothing that `resolve` would take for the model.
fn assert_nothing_looks_whole(env: &HubEnv) {
    assert!(matches!(resolve_with(env, "org/tiny"), Err(HubError::NotCached { .. })));
}

fn blob(env: &HubEnv, name: &str) -> PathBuf {
    env.cache.join("models--org--tiny/blobs").join(name)
}

#[derive(Default)]
struct Recorder(Vec<(String, u64, u64)>, u64);

impl FetchProgress for Recorder {
    fn begin(&mut self, file: &str, bytes: u64, already: u64) {
        self.0.push((file.to_owned(), bytes, already));
    }
    fn advance(&mut self, bytes: u64) {
        self.1 += bytes;
    }
    fn end(&mut self) {}
}

#[test]
fn a_fetched_model_lies_in_the_cache_as_python_puts_it() {
    let files = sharded_files();
    let (server, env, _cache) = serving(&files);
    server.set(|b| b.listed = vec!["pytorch_model.bin".into(), "original/params.json".into(), ".gitattributes".into()]);
    let mut recorder = Recorder::default();
    let model = fetch_with(&env, "org/tiny", None, &mut recorder).unwrap();
    let root = env.cache.join("models--org--tiny");
    assert_eq!(model.dir, root.join("snapshots").join(COMMIT));
    assert_eq!(model.source, ModelSource::Cache { commit: COMMIT.into() });
    assert_eq!(fs::read_to_string(root.join("refs/main")).unwrap(), COMMIT);
    for (name, content) in &files {
        let link = fs::read_link(model.dir.join(name)).unwrap();
        let etag = if name.ends_with(".safetensors") { sha256(content) } else { sha256(content)[..40].to_owned() };
        assert_eq!(link, Path::new("../../blobs").join(etag));
        assert_eq!(&fs::read(model.dir.join(name)).unwrap(), content);
    }
    assert_eq!(fs::read_dir(&model.dir).unwrap().count(), files.len(), "no pickle, nothing else");
    assert_eq!(Checkpoint::open(&model.dir).unwrap().names().count(), 3);
    assert_eq!(resolve_with(&env, "org/tiny").unwrap(), model);
    assert_eq!(resolve_with(&env, &format!("org/tiny@{COMMIT}")).unwrap(), model);
    assert_eq!(recorder.0.iter().map(|(_, bytes, _)| bytes).sum::<u64>(), recorder.1);
    assert!(server.taken("/").iter().all(|(path, _, _)| !path.contains(".bin")));
}

#[test]
fn what_is_there_is_not_fetched_again() {
    let (server, env, _cache) = serving(&sharded_files());
    let first = get(&env).unwrap();
    server.taken("/");
    assert_eq!(get(&env).unwrap(), first);
    assert_eq!(server.taken("/").len(), 1, "the listing alone");
    fs::remove_file(first.dir.join("config.json")).unwrap();
    assert!(matches!(resolve_with(&env, "org/tiny"), Err(HubError::Incomplete { .. })));
    get(&env).unwrap();
    assert!(
        server.taken("/small/").iter().all(|(path, range, _)| path.ends_with("config.json") && range == "bytes=0-0")
    );
    assert!(resolve_with(&env, "org/tiny").is_ok(), "the blob was still there, its link is back");
}

#[test]
fn a_broken_off_download_leaves_nothing_that_looks_whole_and_is_resumed() {
    for hide_length in [false, true] {
        let files = sharded_files();
        let (server, env, _cache) = serving(&files);
        server.set(|b| (b.break_after, b.breaks, b.hide_length) = (1000, usize::MAX, hide_length));
        match get(&env) {
            // Three attempts of 1000 bytes each.
            Err(HubError::BrokenOff { file, received: 3000, .. }) => {
                assert_eq!(file, "model-00001-of-00003.safetensors")
            }
            other => panic!("{other:?}"),
        }
        assert_nothing_looks_whole(&env);
        let whole = files.iter().find(|(name, _)| name.starts_with("model-00001")).unwrap();
        assert!(!blob(&env, &sha256(&whole.1)).exists());
        assert_eq!(fs::read(blob(&env, &format!("{}.incomplete", sha256(&whole.1)))).unwrap(), whole.1[..3000]);
        server.set(|b| b.breaks = 0);
        server.taken("/");
        let model = get(&env).unwrap();
        let resumed = server.taken("/cdn/model-00001");
        assert_eq!(resumed.iter().map(|(_, range, _)| range.as_str()).collect::<Vec<_>>(), ["bytes=3000-"]);
        assert!(Checkpoint::open(&model.dir).is_ok());
        assert!(!blob(&env, &format!("{}.incomplete", sha256(&whole.1))).exists());
    }
}

#[test]
fn one_break_is_overcome_within_the_call() {
    let (server, env, _cache) = serving(&sharded_files());
    server.set(|b| (b.break_after, b.breaks) = (1000, 1));
    assert!(get(&env).is_ok());
}

#[test]
fn a_server_that_ignores_ranges_does_not_spoil_a_resumed_file() {
    let files = sharded_files();
    let (server, env, _cache) = serving(&files);
    server.set(|b| (b.break_after, b.breaks) = (1000, usize::MAX));
    assert!(matches!(get(&env), Err(HubError::BrokenOff { .. })));
    server.set(|b| (b.breaks, b.ignore_ranges) = (0, true));
    let model = get(&env).unwrap();
    assert!(Checkpoint::open(&model.dir).is_ok());
}

#[test]
fn a_wrong_hash_is_discarded() {
    let (server, env, _cache) = serving(&sharded_files());
    server.set(|b| b.corrupt = true);
    assert!(matches!(get(&env), Err(HubError::WrongHash { .. })));
    assert_nothing_looks_whole(&env);
    let left = fs::read_dir(env.cache.join("models--org--tiny/blobs")).unwrap();
    assert!(left.flatten().all(|e| e.file_name().len() == 40), "neither blob nor part of the large file");
    server.set(|b| b.corrupt = false);
    assert!(get(&env).is_ok());
}

#[test]
fn offline_means_no_request_at_all() {
    let (server, env, _cache) = serving(&sharded_files());
    let offline = HubEnv { offline: true, ..env.clone() };
    let error = get(&offline).unwrap_err();
    assert!(matches!(error, HubError::Offline { .. }));
    assert!(error.to_string().contains("HF_HUB_OFFLINE"), "{error}");
    assert_eq!(error.kind().exit_code(), 2);
    assert!(server.taken("/").is_empty());
    let model = get(&env).unwrap();
    server.taken("/");
    assert_eq!(get(&offline).unwrap(), model);
    assert!(server.taken("/").is_empty());
}

#[test]
fn without_a_connection_the_cache_serves() {
    let (_server, env, _cache) = serving(&sharded_files());
    let model = get(&env).unwrap();
    let gone = HubEnv { endpoint: "http://127.0.0.1:1".into(), ..env.clone() };
    assert_eq!(get(&gone).unwrap(), model);
    let other = fetch_with(&gone, "org/other", None, &mut ()).unwrap_err();
    assert!(matches!(other, HubError::Unreachable { .. }));
    assert!(other.to_string().contains("http://127.0.0.1:1"), "{other}");
}

#[test]
fn the_token_goes_to_the_hub_alone() {
    let (server, env, _cache) = serving(&sharded_files());
    let env = HubEnv { token: Some("secret".into()), ..env };
    get(&env).unwrap();
    let seen = server.behaviour.lock().unwrap().seen.clone();
    let (elsewhere, hub): (Vec<_>, Vec<_>) = seen.iter().partition(|(path, _, _)| path.starts_with("/cdn/"));
    assert!(!elsewhere.is_empty() && elsewhere.iter().all(|(_, _, token)| !token));
    assert!(hub.iter().all(|(_, _, token)| *token));
}

#[test]
fn names_from_the_server_cannot_leave_the_cache() {
    let distrusted = |edit: &dyn Fn(&mut super::test_server::Behaviour)| {
        let (server, env, cache) = serving(&sharded_files());
        server.set(edit);
        let error = get(&env).unwrap_err();
        assert!(matches!(error, HubError::Distrusted { .. }), "{error:?}");
        assert_eq!(error.kind().exit_code(), 3);
        assert_nothing_looks_whole(&env);
        assert!(
            fs::read_dir(cache.path()).unwrap().flatten().all(|e| e.file_name() == "hub"),
            "nothing beside the cache"
        );
    };
    for name in ["../../evil", "/etc/evil", "a/../../b", "a//b", "", "a\\..\\b"] {
        distrusted(&|b| b.listed = vec![name.into()]);
    }
    distrusted(&|b| b.listed_commit = Some("../../../evil".into()));
    distrusted(&|b| b.etag = Some("../../../../evil".into()));
    distrusted(&|b| b.etag = Some("..".into()));
    distrusted(&|b| b.served_commit = Some("a/b".into()));
    distrusted(&|b| b.listing = Some("<html>Sign in</html>".into()));
    distrusted(&|b| b.listing = Some("{\"sha\": 1}".into()));
    distrusted(&|b| {
        let index = b.files.get_mut(INDEX_NAME).unwrap();
        *index = String::from_utf8(index.clone()).unwrap().replace(SHARD, "../../x.safetensors").into_bytes();
    });
}

#[test]
fn a_branch_that_moves_meanwhile_is_noticed() {
    let (server, env, _cache) = serving(&sharded_files());
    server.set(|b| b.served_commit = Some("f".repeat(40)));
    assert!(matches!(get(&env), Err(HubError::Moved { .. })));
    assert_nothing_looks_whole(&env);
}

#[test]
fn a_repository_without_safetensors_is_refused() {
    let refused = |edit: &dyn Fn(&mut super::test_server::Behaviour)| {
        let (server, env, _cache) = serving(&sharded_files());
        server.set(edit);
        get(&env).unwrap_err().to_string()
    };
    let pickles = refused(&|b| {
        b.files.retain(|name, _| !name.starts_with("model"));
        b.listed = vec!["pytorch_model-00001-of-00002.bin".into()];
    });
    assert!(pickles.contains("no safetensors, only pytorch_model-00001-of-00002.bin"), "{pickles}");
    let absent = refused(&|b| drop(b.files.remove(SHARD)));
    assert!(absent.contains(&format!("no {SHARD}, which its index names")), "{absent}");
    assert!(refused(&|b| drop(b.files.remove("config.json"))).contains("no config.json"));
}

#[test]
fn refusals_say_what_they_mean() {
    for (status, expected) in [(401, "HF_TOKEN"), (404, "no such model"), (429, "too many"), (503, "try again later")] {
        let (server, env, _cache) = serving(&sharded_files());
        server.set(|b| b.status = Some(status));
        let error = get(&env).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains(&status.to_string()), "{error}");
    }
}

#[test]
fn a_revision_gets_its_own_reference() {
    let (server, env, _cache) = serving(&sharded_files());
    fetch_with(&env, "org/tiny", Some("refs/pr/1"), &mut ()).unwrap();
    assert!(server.taken("/api/").iter().all(|(path, _, _)| path.ends_with("/revision/refs%2Fpr%2F1")));
    assert_nothing_looks_whole(&env);
    assert!(resolve_with(&env, "org/tiny@refs/pr/1").is_ok());
}

#[test]
fn ids_and_revisions_are_checked_before_anything_else() {
    for good in ["gpt2", "org/name", "meta-llama/Llama-2-7b-hf", "a/b.c_d"] {
        assert!(check_id(good).is_ok(), "{good}");
    }
    for bad in
        ["", "/", "a/", "/a", "a/b/c", "../x", "a/..", "a/b--c", "a/-b", "a/b.git", "a b", "a/\u{e9}", "a/b?x", "."]
    {
        assert!(check_id(bad).is_err(), "{bad}");
        assert!(fetch_with(&serving(&[]).1, bad, None, &mut ()).is_err());
    }
    for bad in ["", "..", "a/../b", "/a", "a//b", "a b", "a?b", "a#b", "a%2e"] {
        assert!(check_revision(bad).is_err(), "{bad}");
    }
    assert!(check_revision("refs/pr/1").is_ok() && check_revision("v1.0").is_ok());
    assert!(stays_inside("original/params.json") && !stays_inside("./a") && !stays_inside("a/."));
}

#[test]
fn names_resolve_to_folders_the_bundle_or_a_sentence() {
    let (_server, env, cache) = serving(&[]);
    let folder = cache.path().join("my-model");
    fs::create_dir(&folder).unwrap();
    let name = folder.to_str().unwrap();
    assert!(matches!(resolve_with(&env, name), Err(HubError::NoConfig { .. })));
    fs::write(folder.join("config.json"), "{}").unwrap();
    let found = resolve_with(&env, name).unwrap();
    assert_eq!((found.id.as_str(), found.source), ("my-model", ModelSource::Folder));
    assert!(matches!(resolve_with(&env, folder.join("config.json").to_str().unwrap()), Err(HubError::IsAFile { .. })));
    assert!(matches!(resolve_with(&env, "./nowhere"), Err(HubError::NoSuchModel { .. })));
    assert!(matches!(resolve_with(&env, "/no/where"), Err(HubError::NoSuchModel { .. })));

    let error = resolve_with(&env, "org/name").unwrap_err();
    assert!(error.to_string().ends_with("run `bowline fetch org/name`"), "{error}");
    assert_eq!(error.kind().exit_code(), 2);

    assert!(resolve_with(&env, BUNDLED).is_err());
    fs::create_dir(&env.bundled).unwrap();
    fs::write(env.bundled.join("config.json"), "{}").unwrap();
    assert_eq!(resolve_with(&env, BUNDLED).unwrap().source, ModelSource::Bundled);
}

#[test]
fn a_reference_that_points_outside_the_cache_is_no_snapshot() {
    let (_server, env, cache) = serving(&[]);
    let outside = cache.path().join("outside");
    fs::create_dir_all(&outside).unwrap();
    fs::write(outside.join("config.json"), "{}").unwrap();
    let refs = env.cache.join("models--org--tiny/refs");
    fs::create_dir_all(&refs).unwrap();
    fs::create_dir_all(env.cache.join("models--org--tiny/snapshots")).unwrap();
    for text in ["../../../outside", outside.to_str().unwrap(), ""] {
        fs::write(refs.join("main"), text).unwrap();
        assert_nothing_looks_whole(&env);
    }
}
