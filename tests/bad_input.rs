//! Input that is damaged, hostile or mistaken, given to the real program. Whatever it is, the program says one clear
//! thing with file, field and value, exits with 2 (usage or configuration) or 3 (bad data), and leaves nothing that
//! looks like a result.

use std::path::Path;

use super::support::program::{Ran, bowline};
use super::support::{copy_folder, files, golden, tiny};

/// `config.json`.
mod config;
/// Documents to train and evaluate on.
mod data;
/// Run folders, reports and other places to write to.
mod places;
/// Recipes, studies and the arguments of evaluations.
mod plans;
/// `tokenizer.json`, and texts and ids to score.
mod tokens;
/// Checkpoints: index, shards, headers.
mod weights;

/// One bad input and what must come of it.
struct Bad {
    /// What is wrong, for the failure message.
    what: &'static str,
    /// Makes it so, in a folder that holds the models [`ready`] puts there.
    make: fn(&Path),
    /// The command, words parted by blanks.
    run: &'static str,
    /// Exit code.
    code: i32,
    /// What must be named.
    said: &'static [&'static str],
}

/// A folder with `model` (golden, one file), `sharded` (golden, two shards), `tiny` (random, with a tokenizer),
/// `ids.json` and `text.txt`.
fn ready() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path();
    copy_folder(&golden::home().join("default-mha"), &dir.join("model"));
    copy_folder(&golden::home().join("default-sharded"), &dir.join("sharded"));
    copy_folder(tiny::model(), &dir.join("tiny"));
    tiny::write(dir, "ids.json", "[5, 9, 13, 17, 21, 25]");
    tiny::write(dir, "text.txt", &tiny::text(1, 60));
    folder
}

/// Runs every case; all that went otherwise are reported together.
#[track_caller]
fn check(cases: &[Bad]) {
    let mut wrong = Vec::new();
    for case in cases {
        let folder = ready();
        (case.make)(folder.path());
        let ran = bowline(folder.path(), case.run.split(' '));
        let findings = findings(case, &ran, folder.path());
        if !findings.is_empty() {
            wrong.push(format!("{}: {}\n{ran}", case.what, findings.join("; ")));
        }
    }
    assert!(wrong.is_empty(), "{} of {} went otherwise\n\n{}", wrong.len(), cases.len(), wrong.join("\n\n"));
}

/// What the run of a case did otherwise than it must.
fn findings(case: &Bad, ran: &Ran, dir: &Path) -> Vec<String> {
    let mut findings = Vec::new();
    let mut expect = |holds: bool, finding: String| {
        if !holds {
            findings.push(finding);
        }
    };
    expect(ran.code == Some(case.code), format!("the exit code is not {}", case.code));
    expect(!ran.err.contains("panicked"), "it panicked".to_owned());
    expect(ran.out.is_empty(), "something is on standard output".to_owned());
    // Progress may come before it; nothing comes after it.
    let said = ran.err.find("bowline: ").map_or("", |at| &ran.err[at..]);
    expect(!said.is_empty(), "no sentence".to_owned());
    expect(said.lines().count() <= 6 && said.len() < 2000, "it says too much".to_owned());
    for word in case.said {
        expect(said.contains(word), format!("{word:?} is not named"));
    }
    for file in files(dir) {
        let looks_whole =
            ["out.json", "run/report.json", "run/report.csv", "run/metrics.jsonl"].contains(&file.as_str());
        expect(!looks_whole && !file.contains("step-"), format!("{file} looks like a result"));
        expect(!file.contains(".tmp-"), format!("{file} is left"));
    }
    findings
}

#[test]
fn the_table_rejects_a_run_that_goes_well_or_says_nothing_of_the_fault() {
    let folder = ready();
    let ran = |run: &str| bowline(folder.path(), run.split(' '));
    let case = |code, said| Bad { what: "planted", make: |_| {}, run: "", code, said };
    let good = ran("score model --tokens ids.json --json out.json").expect(0);
    assert_eq!(findings(&case(3, &[]), &good, folder.path()).len(), 3, "exit code, no sentence, and a result");
    std::fs::remove_file(folder.path().join("out.json")).unwrap();
    let bad = ran("score model --tokens none.json --json out.json").expect(3);
    assert_eq!(findings(&case(3, &["none.json"]), &bad, folder.path()), Vec::<String>::new());
    assert_eq!(findings(&case(2, &["/field"]), &bad, folder.path()).len(), 2);
}

const SCORE: &str = "score model --tokens ids.json --json out.json";
const SCORE_SHARDED: &str = "score sharded --tokens ids.json --json out.json";
const SCORE_TEXT: &str = "score tiny --text text.txt --json out.json";
