//! Who may import whom, as `CONTRIBUTING.md` draws it: the arrows point one way and libtorch sits at the edge.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

/// Every member and the members that it may import. Beside these, each may have `testkit` for its tests.
const ARROWS: [(&str, &[&str]); 8] = [
    ("rope_scaling", &[]),
    ("torch_ext", &[]),
    ("eval", &[]),
    ("xtask", &[]),
    ("testkit", &[]),
    ("attention", &["rope_scaling", "torch_ext"]),
    ("plots", &["eval"]),
    ("bowline", &["rope_scaling", "torch_ext", "attention", "eval", "plots"]),
];

/// Packages that only the listed members may name.
const RESERVED: [(&str, &[&str]); 7] = [
    ("tch", &["torch_ext", "attention", "bowline"]),
    ("torch-sys", &["torch_ext", "attention", "bowline"]),
    ("tokenizers", &["bowline"]),
    ("hf-hub", &["bowline"]),
    ("clap", &["bowline"]),
    ("plotters", &["plots"]),
    ("anyhow", &["bowline", "xtask"]),
];

/// Members that build and test with libtorch nowhere near.
const WITHOUT_TORCH: [&str; 5] = ["rope_scaling", "eval", "plots", "testkit", "xtask"];

/// Every breach of the rules in cargo's `metadata` (made without dependencies).
fn breaches(metadata: &Value) -> Vec<String> {
    list(&metadata["packages"]).iter().flat_map(breaches_of).collect()
}

fn breaches_of(package: &Value) -> Vec<String> {
    let name = text(&package["name"]);
    let Some((_, allowed)) = ARROWS.iter().find(|(member, _)| *member == name) else {
        return vec![format!("{name} is a member that the map does not show")];
    };
    list(&package["dependencies"]).iter().filter_map(|dependency| breach(&name, allowed, dependency)).collect()
}

/// What is wrong with one dependency of the member `name`, which may import the members `allowed`.
fn breach(name: &str, allowed: &[&str], dependency: &Value) -> Option<String> {
    let (wanted, for_tests) = (text(&dependency["name"]), dependency["kind"] == "dev");
    let is_member = ARROWS.iter().any(|(member, _)| *member == wanted);
    if is_member && !allowed.contains(&wanted.as_str()) && !(for_tests && wanted == "testkit") {
        return Some(format!("{name} imports {wanted}"));
    }
    let reserved = RESERVED.iter().find(|(package, _)| *package == wanted);
    if reserved.is_some_and(|(_, members)| !members.contains(&name)) {
        return Some(format!("{name} imports {wanted}"));
    }
    let is_torch = ["torch_ext", "tch", "torch-sys"].contains(&wanted.as_str());
    if name == "attention" && is_torch && !for_tests && dependency["optional"] != true {
        return Some(format!("attention imports {wanted} even without its feature `torch`"));
    }
    None
}

/// The members of [`WITHOUT_TORCH`] from which a lock file leads to libtorch's bindings, through anything.
fn roads_to_torch(lock: &toml::Table) -> Vec<String> {
    let mut graph: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in lock["package"].as_array().expect("a lock file lists packages") {
        let name = package["name"].as_str().expect("a package has a name");
        let wanted = package.get("dependencies").and_then(toml::Value::as_array).into_iter().flatten();
        // A dependency reads `name`, or `name version` where two versions are locked. Versions are thrown together.
        let names = wanted.filter_map(|it| it.as_str()?.split(' ').next().map(str::to_owned));
        graph.entry(name.to_owned()).or_default().extend(names);
    }
    let leads_to_torch = |member: &&&str| reachable(&graph, member).contains("torch-sys");
    WITHOUT_TORCH.iter().filter(leads_to_torch).map(ToString::to_string).collect()
}

fn reachable(graph: &BTreeMap<String, BTreeSet<String>>, start: &str) -> BTreeSet<String> {
    let (mut seen, mut next) = (BTreeSet::new(), vec![start.to_owned()]);
    while let Some(name) = next.pop() {
        if seen.insert(name.clone()) {
            next.extend(graph.get(&name).into_iter().flatten().cloned());
        }
    }
    seen
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Cargo's own account of this workspace.
fn metadata() -> Value {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs, since it runs this test");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo's metadata is JSON")
}

fn lock() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock");
    std::fs::read_to_string(path).expect("the lock file is committed")
}

#[test]
fn members_import_only_along_the_arrows() {
    assert_eq!(breaches(&metadata()), Vec::<String>::new());
}

#[test]
fn every_member_of_the_map_exists() {
    let metadata = metadata();
    let members: BTreeSet<String> = list(&metadata["packages"]).iter().map(|it| text(&it["name"])).collect();
    assert_eq!(members, ARROWS.iter().map(|(member, _)| (*member).to_owned()).collect());
}

#[test]
fn libtorch_is_nowhere_near_the_members_without_it() {
    assert_eq!(roads_to_torch(&lock().parse().expect("a lock file is TOML")), Vec::<String>::new());
}

#[test]
fn planted_imports_are_found() {
    let planted = |package: &str, wanted: &str, kind: Value| {
        let dependency = json!({"name": wanted, "kind": kind, "optional": false});
        breaches(&json!({"packages": [{"name": package, "dependencies": [dependency]}]}))
    };
    let wrong = [
        ("eval", "attention"),
        ("plots", "bowline"),
        ("rope_scaling", "tch"),
        ("eval", "tokenizers"),
        ("attention", "eval"),
        ("attention", "torch_ext"),
        ("rope_scaling", "testkit"),
        ("stranger", "serde"),
    ];
    for (package, wanted) in wrong {
        assert_eq!(planted(package, wanted, Value::Null).len(), 1, "{package} imports {wanted}");
    }
    assert_eq!(planted("eval", "bowline", json!("dev")).len(), 1, "tests follow the arrows as well");
    assert_eq!(planted("plots", "torch-sys", json!("build")).len(), 1, "and so do build scripts");
    assert!(planted("eval", "testkit", json!("dev")).is_empty());
    assert!(planted("plots", "eval", Value::Null).is_empty());
}

#[test]
fn a_planted_road_to_libtorch_is_found_behind_another_package() {
    let lock = r#"
        [[package]]
        name = "eval"
        dependencies = ["helper 1.0.0"]
        [[package]]
        name = "helper"
        dependencies = ["torch-sys"]
        [[package]]
        name = "torch-sys"
    "#;
    assert_eq!(roads_to_torch(&lock.parse().expect("TOML")), ["eval"]);
}
