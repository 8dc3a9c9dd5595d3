use super::*;

#[test]
fn a_method_reads_back_from_its_spelling() {
    let spellings = [
        "linear:factor=4",
        "ntk:factor=2.5",
        "dynamic-ntk:factor=4",
        "yarn:factor=8",
        "dynamic-yarn:factor=8",
        "ntk-by-parts:factor=8",
        "llama3:factor=8",
        "abf:factor=4,base=500000",
        "self-extend:group=4,window=128",
    ];
    for text in spellings {
        assert_eq!(text.parse::<Method>().unwrap().to_string(), text);
    }
    let pi = "pi:factor=4".parse::<Method>().unwrap();
    assert_eq!(pi, Method::Positions { extension: Extension::Linear, factor: 4.0, file: None });
}

#[test]
fn factors_come_from_a_file_and_a_given_factor_goes_before_that_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let file = write("factors.json", r#"{"factor": 4.0, "long_factor": [1.0, 2.0]}"#);
    let method = format!("longrope:factors={file}").parse::<Method>().unwrap();
    let Method::Positions { extension: Extension::LongRope(factors), factor, .. } = &method else { panic!("{method}") };
    assert_eq!((factors.long.as_slice(), *factor), ([1.0, 2.0].as_slice(), 4.0));
    assert_eq!(method.to_string(), format!("longrope:factors={file},factor=4"));
    assert_eq!(method.to_string().parse::<Method>().unwrap(), method);
    assert!(method.file_content().unwrap().contains("long_factor"));
    let longer = format!("longrope:factors={file},factor=8").parse::<Method>().unwrap();
    assert!(matches!(longer, Method::Positions { factor: 8.0, .. }));
    let change =
        PositionChange { method: "longrope".into(), factor: None, base: None, factors: Some(file), further: false };
    assert_eq!(Method::try_from(&change).unwrap(), method);

    let refused = |text: String, code: u8, words: &str| {
        let failure = text.parse::<Method>().unwrap_err();
        assert!(failure.exit_code() == code && failure.to_string().contains(words), "{code}: {failure}");
    };
    let silent = write("silent.json", r#"{"long_factor": [1.0, 2.0]}"#);
    refused(format!("longrope:factors={silent}"), 2, "factor is missing");
    refused("longrope:factor=4".to_owned(), 2, "factors is missing");
    refused(format!("yarn:factor=4,factors={silent}"), 2, "takes no factors");
    refused("longrope:factors=no-such-file".to_owned(), 3, "no-such-file");
    let other = write("other.json", r#"{"long_factors": [1.0]}"#);
    refused(format!("longrope:factors={other},factor=2"), 2, "other.json: /long_factors");
}

#[test]
fn wrong_spellings_are_told_what_is_wrong() {
    let refused = |text: &str, words: &str| {
        let message = text.parse::<Method>().unwrap_err().to_string();
        assert!(message.contains(text) && message.contains(words), "{message}");
    };
    refused("yarn", "factor is missing");
    refused("yarn:scale=4", "neither factor=N nor base=N");
    refused("yarn:factor=4,factor=8", "once each");
    refused("yarm:factor=4", "did you mean \"yarn\"");
    refused("abf:factor=4", "base");
    refused("rerope", "window is missing");
    // The name is judged before the options.
    refused("selfextend:group=4,window=8", "did you mean \"self-extend\"");
    refused("dynamic_yarn:factor=4", "did you mean \"dynamic-yarn\"");
    refused("streming:window=4,sinks=4", "did you mean \"streaming\"");
    refused("mystery:factor=2", "longrope");
}
