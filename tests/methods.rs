//! Methods without training, on the bundled model: the same as plain inside their window, better than nothing beyond it.

use super::support::program::bowline;

const INSIDE: [&str; 5] = [
    "self-extend:group=8,window=128",
    "rerope:window=192",
    "lm-infinite:window=192,sinks=4",
    "streaming:window=192,sinks=4",
    "dca:chunk=128,local=64",
];

/// Perplexity on four held-out pieces, at 64 and at 1024 tokens; the model's context is 256.
fn perplexities(method: &[&str]) -> [f64; 2] {
    let folder = tempfile::tempdir().unwrap();
    let arguments = [
        "eval",
        "perplexity",
        "bundled",
        "--data",
        "bundled:heldout",
        "--protocol",
        "P2",
        "--lengths",
        "64,1024",
        "--piece-tokens",
        "1024",
        "--max-documents",
        "4",
        "--format",
        "json",
        "--device",
        "cpu",
        "--out",
        "run",
    ];
    let report = bowline(folder.path(), arguments.iter().chain(method)).expect(0).json();
    let rows = report["rows"].as_array().unwrap();
    [64, 1024].map(|length| {
        let row = rows.iter().find(|row| row["length"] == length && row["metric"] == "perplexity").unwrap();
        row["value"].as_f64().unwrap()
    })
}

#[test]
fn a_method_changes_nothing_inside_its_window_and_mends_what_lies_beyond_the_context() {
    let [near, far] = perplexities(&[]);
    for method in INSIDE {
        let [same, mended] = perplexities(&["--method", method]);
        assert!((same / near - 1.0).abs() < 1e-4, "{method}: {same} where the model alone has {near}");
        assert!(mended < far, "{method}: {mended} where the model alone has {far}");
    }
    let [_, yarn] = perplexities(&["--method", "yarn:factor=4"]);
    assert!(yarn < far, "{yarn} where the model alone has {far}");
}

#[test]
fn a_wrong_method_is_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("text.txt"), "Once upon a time there was a ship without a sail. ".repeat(40))
        .unwrap();
    let refused = |more: &[&str], words: &str| {
        let arguments = ["score", "bundled", "--text", "text.txt", "--device", "cpu"];
        let ran = bowline(folder.path(), arguments.iter().chain(more)).expect(2);
        assert!(ran.err.contains(words), "{ran}");
    };
    refused(&["--method", "self-extend:group=8"], "window is missing");
    refused(&["--method", "yarn"], "factor is missing");
    refused(&["--method", "rerope:window=0"], "at least 1");
    refused(&["--method", "mystery:factor=2"], "mystery");
    refused(&["--method", INSIDE[0], "--backend", "mystery"], "mystery");
}
