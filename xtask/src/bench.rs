//! `cargo xtask bench`: the workspace's benchmarks.

use anyhow::Result;
use serde_json::Value;

use crate::libtorch;
use crate::stop::stop;
use crate::workspace::{Workspace, run_through};

/// Sets up, then runs every benchmark target of the workspace with `arguments` passed to it.
///
/// Cargo's own bench profile would compile libtorch's bindings a second time; the shared profile is optimised as well.
pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    let targets = bench_targets(&workspace.metadata()?);
    if targets.is_empty() {
        stop!("no package of this workspace has a benchmark target");
    }
    libtorch::set_up(workspace)?;
    workspace.announce_first_build();
    let mut cargo = workspace.cargo();
    cargo.args(["bench", "--profile", "dev"]);
    for (package, target) in &targets {
        cargo.args(["--package", package, "--bench", target]);
    }
    run_through("the benchmarks", cargo.arg("--").args(arguments))
}

/// The (package, target) pairs of every benchmark in cargo's `metadata`.
fn bench_targets(metadata: &Value) -> Vec<(String, String)> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let name = |value: &Value| value["name"].as_str().unwrap_or_default().to_owned();
    let of_package = |package: &Value| {
        let benches =
            list(&package["targets"]).into_iter().filter(|it| list(&it["kind"]).iter().any(|it| it == "bench"));
        benches.map(|target| (name(package), name(&target))).collect::<Vec<_>>()
    };
    list(&metadata["packages"]).iter().flat_map(of_package).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_benchmark_targets_are_run() {
        let metadata = serde_json::json!({"packages": [
            {"name": "a", "targets": [{"name": "a", "kind": ["lib"]}, {"name": "speed", "kind": ["bench"]}]},
            {"name": "b", "targets": [{"name": "b", "kind": ["bin"]}]},
        ]});
        assert_eq!(bench_targets(&metadata), [("a".to_owned(), "speed".to_owned())]);
        assert!(bench_targets(&Value::Null).is_empty());
    }
}
