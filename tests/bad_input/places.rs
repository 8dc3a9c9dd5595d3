use std::path::Path;
use std::process::Command;

use bowline::runtime::run_dir::RunDir;

use super::super::support::program::{Running, bowline, command};
use super::super::support::{files, tiny};
use super::{Bad, check, ready};

const fn place(what: &'static str, make: fn(&Path), run: &'static str, said: &'static [&'static str]) -> Bad {
    Bad { what, make, run, code: 3, said }
}

fn file(dir: &Path, name: &str) {
    tiny::write(dir, name, "a file");
}

fn report(dir: &Path, text: &str) {
    std::fs::create_dir(dir.join("old")).unwrap();
    tiny::write(dir, "old/report.json", text);
}

#[test]
fn places_that_cannot_be_written_to_are_named() {
    check(&[
        place(
            "a file for a run folder",
            |d| file(d, "taken"),
            "eval passkey tiny --lengths 64 --out taken",
            &["taken"],
        ),
        place(
            "no such folder",
            |_| {},
            "score model --tokens ids.json --json none/o.json",
            &["none/o.json", "No such file"],
        ),
        place("a folder for a file", |_| {}, "score model --tokens ids.json --json tiny", &["tiny"]),
        place("an export onto a folder", |_| {}, "export model tiny", &["tiny", "exists"]),
        place("an export below a file", |d| file(d, "taken"), "export model taken/x", &["taken/x"]),
        place(
            "nothing to export",
            |d| std::fs::create_dir(d.join("empty")).unwrap(),
            "export empty out",
            &["empty", "config.json"],
        ),
        place("no report", |_| {}, "report tiny", &["report.json", "No such file"]),
        place("no report but something", |d| report(d, "[]"), "report old", &["old/report.json"]),
        place(
            "a report from the future",
            |d| report(d, r#"{"schema_version": 99}"#),
            "report old",
            &["old/report.json", "99"],
        ),
        place(
            "half a report",
            |d| report(d, "{\"schema_version\": 1, \"rows\": ["),
            "report old",
            &["old/report.json", "line 1"],
        ),
    ]);
}

#[test]
fn a_run_folder_in_use_by_another_process_is_left_alone() {
    let folder = ready();
    let held = RunDir::open(&folder.path().join("run")).unwrap();
    let text = tiny::one_stage(&tiny::write_text(folder.path()), 1);
    tiny::write(folder.path(), "r.toml", &text);
    let commands = [
        "eval passkey tiny --lengths 64 --out run",
        "eval perplexity tiny --lengths 32 --out run --data text.txt",
        "train r.toml --out run --device cpu",
    ];
    for line in commands {
        let ran = bowline(folder.path(), line.split(' ')).expect(2);
        assert!(ran.err.starts_with("bowline: run is in use by another bowline process"), "{ran}");
    }
    assert_eq!(files(&folder.path().join("run")), [".lock"]);
    drop(held);
}

/// `command` under a limit on the size of a file that it may write: a full disk, as far as a write can tell.
fn limited(command: &Command, blocks: u32) -> Command {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"")).arg(command.get_program());
    shell.args(command.get_args()).current_dir(command.get_current_dir().unwrap());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    shell
}

#[test]
fn a_disk_that_is_full_leaves_no_half_checkpoint_and_the_run_goes_on_later() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    tiny::write(dir, "r.toml", &tiny::recipe(&tiny::write_text(dir)));
    let train = || command(dir, ["train", "r.toml", "--out", "run", "--device", "cpu"]);
    // Enough for text and metrics, too little for weights of 300 kB.
    let full = Running::start(limited(&train(), 100)).finished().expect(3);
    assert!(full.err.contains("bowline: could not write run/checkpoints/"), "{full}");
    let left = files(dir);
    assert!(!left.iter().any(|file| file.contains("step-") || file.contains(".tmp-")), "{left:?}");
    Running::start(train()).finished().expect(0);
    assert!(dir.join("run/checkpoints/step-8/manifest.json").exists());
}

#[test]
fn a_result_that_does_not_fit_on_the_disk_leaves_the_old_one() {
    let folder = ready();
    let dir = folder.path();
    let ids: Vec<u32> = (0..5000).map(|n| n % 200).collect();
    tiny::write(dir, "ids.json", &serde_json::json!(ids).to_string());
    tiny::write(dir, "o.json", "the old result");
    let score = command(dir, ["score", "model", "--tokens", "ids.json", "--json", "o.json"]);
    let ran = Running::start(limited(&score, 20)).finished().expect(3);
    assert!(ran.err.contains("o.json"), "{ran}");
    assert_eq!(std::fs::read_to_string(dir.join("o.json")).unwrap(), "the old result");
    assert!(!files(dir).iter().any(|file| file.contains(".tmp-")), "{:?}", files(dir));
}
