//! TOML with settings laid over it, and errors that name the key and the nearest known one.

use serde::de::DeserializeOwned;
use toml::Value;

use crate::error::Failure;
use crate::fault::brief;

/// Largest recipe file read, in bytes.
pub const RECIPE_LIMIT: u64 = 4 << 20;

/// Parses `text`, applies each `a.b=value` of `settings`, and reads the result as a `T`.
///
/// # Errors
///
/// A sentence with line and key; exit code 2.
pub fn read<T: DeserializeOwned>(text: &str, settings: &[String]) -> Result<T, Failure> {
    let mut table: toml::Table =
        text.parse().map_err(|error: toml::de::Error| sentence(&error, text, Lines::AsGiven))?;
    if settings.is_empty() {
        // Straight from the text, so that an error carries its line.
        return toml::from_str(text).map_err(|error| sentence(&error, text, Lines::AsGiven));
    }
    for setting in settings {
        apply(&mut table, setting)?;
    }
    let changed = toml::to_string(&table).map_err(|error| Failure::config(error.to_string()))?;
    toml::from_str(&changed).map_err(|error| sentence(&error, &changed, Lines::Rewritten))
}

/// Whether the lines of a text are those of the user's file.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lines {
    AsGiven,
    Rewritten,
}

/// Sets `a.b=value`; the value is TOML, or else a plain string. Items of lists are numbered from 0, `stage.0.steps=5`, or
/// known by their `name`, `source.books.min_tokens=9`.
fn apply(table: &mut toml::Table, setting: &str) -> Result<(), Failure> {
    let Some((path, text)) = setting.split_once('=') else {
        return Err(Failure::config(format!("--set {setting}: expected KEY=VALUE")));
    };
    let value = parsed(text.trim());
    let keys: Vec<&str> = path.trim().split('.').collect();
    let Some((last, parents)) = keys.split_last().filter(|_| keys.iter().all(|key| !key.is_empty())) else {
        return Err(Failure::config(format!("--set {setting}: the key has an empty part")));
    };
    let no_such =
        |key: &str| Failure::config(format!("--set {setting}: {key:?} is not a table or a list with that item"));
    let mut place: &mut Value = match parents.split_first() {
        None => {
            table.insert((*last).to_owned(), value);
            return Ok(());
        }
        Some((first, _)) => table.entry(*first).or_insert_with(|| Value::Table(toml::Table::new())),
    };
    for key in &parents[1..] {
        place = match place {
            Value::Table(inner) => inner.entry(*key).or_insert_with(|| Value::Table(toml::Table::new())),
            Value::Array(items) => item(items, key).ok_or_else(|| no_such(key))?,
            _ => return Err(no_such(key)),
        };
    }
    match place {
        Value::Table(inner) => {
            inner.insert((*last).to_owned(), value);
        }
        Value::Array(items) => {
            *item(items, last).ok_or_else(|| no_such(last))? = value;
        }
        _ => return Err(no_such(last)),
    }
    Ok(())
}

/// The item of a list that `key` means: its number, or its name.
fn item<'a>(items: &'a mut [Value], key: &str) -> Option<&'a mut Value> {
    let named = |item: &Value| item.get("name").and_then(Value::as_str) == Some(key);
    let place = key.parse().ok().or_else(|| items.iter().position(named))?;
    items.get_mut(place)
}

fn parsed(text: &str) -> Value {
    let line = format!("value = {text}");
    let table = line.parse::<toml::Table>().ok();
    table.and_then(|mut table| table.remove("value")).unwrap_or_else(|| Value::String(text.to_owned()))
}

/// Whether a name can be that of a folder, too: letters, digits, `-`, `_` and `.`, which is not first.
pub fn is_plain_name(name: &str) -> bool {
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
    plain && !name.is_empty() && !name.starts_with('.')
}

/// One line of what is wrong, and where.
fn sentence(error: &toml::de::Error, text: &str, lines: Lines) -> Failure {
    let message = error.message().trim().replace('\n', " ");
    let hint = suggestion(&message).map(|near| format!("; did you mean `{near}`?")).unwrap_or_default();
    // The long form begins with "TOML parse error at line L, column C".
    let long = error.to_string();
    let place = long.lines().next().and_then(|line| line.split_once(" at ")).filter(|_| lines == Lines::AsGiven);
    let place = place.map(|(_, place)| format!("{place}: ")).unwrap_or_default();
    let key = error.span().and_then(|span| key_of_value(text, span.start)).map(|key| format!("{key}: "));
    Failure::config(brief(&format!("{place}{}{message}{hint}", key.unwrap_or_default())))
}

/// Nothing, or one failure with a line for each finding.
pub fn settled(findings: &[String]) -> Result<(), Failure> {
    match findings {
        [] => Ok(()),
        all => Err(Failure::config(all.iter().map(|line| brief(line)).collect::<Vec<_>>().join("\n"))),
    }
}

/// Table and key, as `optimizer.beta1`, of the value that begins at byte `at`; for a key that begins there, the table that
/// it stands in.
fn key_of_value(text: &str, at: usize) -> Option<String> {
    let (before, after) = (text.get(..at)?, text.get(at..)?);
    let is_of_key = |c: char| c.is_alphanumeric() || "_-.\"".contains(c);
    let line = before.rsplit('\n').next()?;
    let header = after.lines().next().and_then(|line| line.trim_end().strip_prefix('['));
    if let (Some(header), "") = (header, line) {
        // A table where a value belongs: its header is what is wrong.
        let name = header.trim_matches(['[', ']']);
        return name.chars().all(is_of_key).then(|| name.to_owned());
    }
    let headers = before.lines().filter_map(|line| line.trim().strip_prefix('['));
    let table = headers.filter_map(|line| line.trim_matches(['[', ']']).split(']').next()).next_back();
    let table = table.map(|table| table.trim().to_owned());
    let last = |part: &str| part.trim_end().rsplit(|c| !is_of_key(c)).next().unwrap_or_default().to_owned();
    let key = match line.trim_end().strip_suffix('=') {
        Some(key) => last(key),
        None if line.trim().is_empty() => return table,
        // An item of a list: the key that begins the line.
        None => last(line.split_once('=')?.0),
    };
    let whole = table.map_or_else(|| key.clone(), |table| format!("{table}.{key}"));
    (!key.is_empty()).then_some(whole)
}

/// The known key nearest to the unknown one, from serde's list of expected keys.
fn suggestion(message: &str) -> Option<String> {
    let mut quoted = message.split('`').skip(1).step_by(2);
    if !message.starts_with("unknown field") && !message.starts_with("unknown variant") {
        return None;
    }
    let wrong = quoted.next()?;
    near(wrong, quoted).map(str::to_owned)
}

/// The known word nearest to a wrong one, if any is near.
pub fn near<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|known| (distance(wrong, known), known))
        .filter(|(d, known)| *d <= known.len().max(4) / 2)
        .min()
        .map(|(_, known)| known)
}

/// Edit distance (Levenshtein).
pub fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substituted = corner + usize::from(ca != *cb);
            corner = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(row[j + 1] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        rate: f64,
        #[serde(default)]
        stage: Vec<Inner>,
    }

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        steps: u64,
    }

    #[test]
    fn a_setting_replaces_a_value_and_reaches_into_lists() {
        let text = "rate = 1.0\n[[stage]]\nsteps = 3\n";
        let sample: Sample = read(text, &["rate=0.5".into(), "stage.0.steps=9".into()]).unwrap();
        assert_eq!((sample.rate, sample.stage[0].steps), (0.5, 9));
    }

    #[test]
    fn an_item_of_a_list_is_reached_by_its_name_too() {
        let text = "[[source]]\nname = 'web'\nsize = 1\n[[source]]\nname = 'books'\nsize = 2\n";
        let table: toml::Table = read(text, &["source.books.size=5".into(), "source.0.size=4".into()]).unwrap();
        let sizes: Vec<i64> =
            table["source"].as_array().unwrap().iter().map(|it| it["size"].as_integer().unwrap()).collect();
        assert_eq!(sizes, [4, 5]);
        assert!(read::<toml::Table>(text, &["source.news.size=5".into()]).is_err());
    }

    #[test]
    fn an_unknown_key_names_its_line_and_the_nearest_known_one() {
        let error = read::<Sample>("rate = 1.0\nstge = 2\n", &[]).unwrap_err().to_string();
        assert!(
            error.contains("line 2") && error.contains("stge") && error.contains("did you mean `stage`"),
            "{error}"
        );
    }

    #[test]
    fn a_wrong_value_names_its_table_and_key() {
        let cases = [
            ("rate = 'fast'", "line 1, column 8: rate: "),
            ("rate = 1.0\n[[stage]]\nsteps = -1\n", "line 3, column 9: stage.steps: "),
            ("rate = 1.0\nstage = [{ steps = 'x' }]\n", "line 2, column 20: steps: "),
            ("rate = 1.0\nstage = [3]\n", "line 2, column 10: stage: "),
            ("stage = []\n[rate]\nx = 1\n", "line 2, column 1: rate: "),
            ("rate = 1.0\n[[stage]]\nstps = 1\n", "line 3, column 1: stage: unknown field `stps`"),
        ];
        for (text, start) in cases {
            let error = read::<Sample>(text, &[]).unwrap_err().to_string();
            assert!(error.starts_with(start), "{error}");
        }
    }

    #[test]
    fn a_wrong_setting_names_its_key_and_no_line_of_a_file_that_the_user_never_saw() {
        let text = "rate = 1.0\n[[stage]]\nsteps = 3\n";
        let error = read::<Sample>(text, &["stage.0.steps=many".to_owned()]).unwrap_err().to_string();
        assert!(error.starts_with("stage.steps: ") && error.contains("many") && !error.contains("line"), "{error}");
    }

    #[test]
    fn a_setting_without_value_or_place_is_refused() {
        for setting in ["rate", "=1", "rate.x=1", "stage.4.steps=1"] {
            let error = read::<Sample>("rate = 1.0\n", &[setting.to_owned()]).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{setting}");
        }
    }

    #[test]
    fn edit_distance_counts_edits() {
        assert_eq!((distance("yarn", "yarn"), distance("yran", "yarn"), distance("", "abc")), (0, 2, 3));
    }
}
