//! What a recipe may say of its sources, and what is said of a wrong one.
#![allow(clippy::unwrap_used)]

use super::*;

const PLAIN: &str = r#"
name = "r"
[model]
from = "bundled"
[optimizer]
learning_rate = 1e-3
[[source]]
name = "web"
paths = ["web"]
[[source]]
name = "code"
paths = ["code"]
[[stage]]
length = 8
batch = 1
steps = 1
"#;

/// The recipe above with a line added to its first source.
fn with(line: &str) -> Result<Recipe, String> {
    let text = PLAIN.replacen("paths = [\"web\"]", &format!("paths = [\"web\"]\n{line}"), 1);
    Recipe::parse(&text).map_err(|failure| {
        assert_eq!(failure.exit_code(), 2);
        failure.to_string()
    })
}

#[test]
fn a_source_takes_every_option_of_the_readers() {
    let lines = "text_field = 'body'\nformat = 'jsonl'\non_bad_line = 'skip'\nmax_document_bytes = 1000\n\
                 zstd_window_log = 31\nmin_tokens = 3\nweight = 2.5";
    let spec = with(lines).unwrap().sources[0].spec();
    let expected = SourceSpec {
        format: Format::Jsonl,
        on_bad_line: OnBadLine::Skip,
        max_document_bytes: 1000,
        zstd_window_log: 31,
        min_tokens: 3,
        weight: 2.5,
        ..SourceSpec::new("web", &["web"], "body")
    };
    assert_eq!(spec, expected);
    assert_eq!(with("").unwrap().sources[0].spec(), SourceSpec::new("web", &["web"], "text"));
}

#[test]
fn wrong_options_name_source_field_and_value() {
    let cases = [
        ("zstd_window_log = 40", ["source.web.zstd_window_log", "10 to 31", "40"]),
        ("max_document_bytes = 0", ["source.web.max_document_bytes", "above 0", "0"]),
        ("weight = -1.5", ["source.web.weight", "above 0", "-1.5"]),
        ("weight = nan", ["source.web.weight", "finite", "NaN"]),
        ("text_field = ''", ["source.web.text_field", "must name", "\"\""]),
        ("on_bad_line = 'ignore'", ["source.on_bad_line", "`skip`", "`ignore`"]),
        ("format = 'csv'", ["source.format", "`parquet`", "`csv`"]),
        ("max_document_bytes = -1", ["source.max_document_bytes", "line 10", "-1"]),
        ("zstd_window_log = '27'", ["source.zstd_window_log", "line 10", "\"27\""]),
        ("on_bad_lines = 'skip'", ["unknown field", "`on_bad_lines`", "did you mean `on_bad_line`"]),
    ];
    for (line, words) in cases {
        let error = with(line).unwrap_err();
        assert!(words.iter().all(|word| error.contains(word)) && error.lines().count() == 1, "{line}: {error}");
    }
}

#[test]
fn a_stage_without_a_mix_takes_every_source_by_its_weight() {
    let recipe = with("weight = 3.0").unwrap();
    assert_eq!(recipe.stages[0].mix, BTreeMap::from([("web".to_owned(), 3.0), ("code".to_owned(), 1.0)]));
    let recipe = Recipe::parse(&format!("{PLAIN}mix = {{ code = 0.5 }}")).unwrap();
    assert_eq!(recipe.stages[0].mix, BTreeMap::from([("code".to_owned(), 0.5)]));
}

#[test]
fn a_recipe_reads_back_as_it_was_written_and_defaults_stay_unwritten() {
    let plain = toml::to_string(&with("").unwrap()).unwrap();
    for key in ["weight", "format", "on_bad_line", "max_document_bytes", "zstd_window_log"] {
        assert!(!plain.contains(&format!("\n{key} = ")), "{plain}");
    }
    let recipe = with("weight = 2.0\nformat = 'txt'\non_bad_line = 'skip'\nzstd_window_log = 20").unwrap();
    let again = Recipe::parse(&toml::to_string(&recipe).unwrap()).unwrap();
    assert_eq!(again.sources[0].spec(), recipe.sources[0].spec());
    assert_eq!(again.stages[0].mix, recipe.stages[0].mix);
}

/// What is said of the plain recipe with settings laid over it; none when nothing is.
fn said(settings: &[&str]) -> Option<String> {
    let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
    Recipe::layered(PLAIN, &settings).err().map(|failure| {
        assert_eq!(failure.exit_code(), 2);
        failure.to_string()
    })
}

#[test]
fn adapters_and_variants_of_training_are_read() {
    let adapter =
        "adapter={ rank = 8, alpha = 16.0, targets = ['q_proj'], also = ['embedding', 'norms'], base = 'nf4' }";
    assert_eq!(said(&[adapter, "stage.0.shifted_sparse=0.25", "stage.0.skip_positions={ target = 64 }"]), None);
    assert_eq!(said(&["loss={ kind = 'long-ce', short_context = 4, stride = 2 }"]), None);
    let recipe = Recipe::parse(PLAIN).unwrap();
    let written = toml::to_string(&recipe).unwrap();
    assert!(
        ["loss", "adapter", "shifted_sparse", "skip_positions"].iter().all(|key| !written.contains(key)),
        "{written}"
    );
}

#[test]
fn wrong_adapters_and_variants_name_field_and_value() {
    let adapter = |fields: &str| format!("adapter={{ rank = 8, alpha = 16.0, targets = ['q_proj'], {fields} }}");
    let cases: [(&[&str], [&str; 2]); 12] = [
        (&["adapter={ rank = 0, alpha = 1.0, targets = ['q_proj'] }"], ["adapter.rank", "is 0"]),
        (&["adapter={ rank = 1, alpha = -1.0, targets = ['q_proj'] }"], ["adapter.alpha", "is -1"]),
        (&["adapter={ rank = 1, alpha = 1.0, targets = [] }"], ["adapter.targets", "at least one"]),
        (&["adapter={ rank = 1, alpha = 1.0, targets = ['lm_head'] }"], ["adapter.targets", "\"lm_head\""]),
        (&["adapter={ rank = 1, alpha = 1.0, targets = ['q_proj', 'q_proj'] }"], ["adapter.targets", "twice"]),
        (&[&adapter("dropout = 1.0")], ["adapter.dropout", "is 1"]),
        (&["stage.0.shifted_sparse=0.4"], ["stage 1.shifted_sparse", "is 0.4"]),
        (&["stage.0.skip_positions={ target = 4 }"], ["stage 1.skip_positions.target", "is 4"]),
        (&["stage.0.skip_positions={ target = 64, chunks = 9 }"], ["stage 1.skip_positions.chunks", "is 9"]),
        (&["loss={ kind = 'long-ce', clip = 0.0 }"], ["loss.clip", "is 0"]),
        (&["loss={ kind = 'long-ce' }"], ["stage 1.length", "short_context 4096"]),
        (
            &["loss={ kind = 'long-ce', short_context = 2, stride = 2 }", "stage.0.shifted_sparse=0.5"],
            ["stage 1.shifted_sparse", "long-ce"],
        ),
    ];
    for (settings, words) in cases {
        let said = said(settings).unwrap_or_default();
        assert!(words.iter().all(|word| said.contains(word)), "{settings:?}: {said}");
    }
    let new = PLAIN.replace("from = \"bundled\"", "tokenizer = 'bundled'");
    let shape = "hidden_size = 8\nintermediate_size = 8\nnum_hidden_layers = 1\nnum_attention_heads = 1\n\
                 num_key_value_heads = 1\nmax_position_embeddings = 8\nrope_theta = 1e4\ntie_word_embeddings = true\n";
    let text = format!("{new}\n[model.new]\n{shape}[adapter]\nrank = 1\nalpha = 1\ntargets = ['q_proj']\n");
    let said = Recipe::parse(&text).unwrap_err().to_string();
    assert!(said.contains("adapter: needs `model.from`"), "{said}");
}
