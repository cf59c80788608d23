//! Direct dependencies are explained, and the Rust that each package says it needs is enough for all that it depends on.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::{
    collections::{BTreeSet, HashMap},
    process::Command,
};

use serde_json::Value;

fn cargo(args: &[&str]) -> Vec<u8> {
    let cargo = Command::new(env!("CARGO")).args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(cargo.status.success(), "{}", String::from_utf8_lossy(&cargo.stderr));
    cargo.stdout
}

/// What cargo knows about the workspace, by the lock file and by what was downloaded to build this test.
fn metadata() -> Value {
    let version = String::from_utf8(cargo(&["-vV"])).unwrap();
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    let args = ["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", host];
    serde_json::from_slice(&cargo(&args)).unwrap()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().unwrap()
}

#[test]
fn every_direct_dependency_has_its_line_and_every_line_its_dependency() {
    let page = include_str!("../docs/dependencies.md");
    let explained: BTreeSet<_> =
        page.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).map(str::to_owned).collect();
    let metadata = metadata();
    let members = list(&metadata, "workspace_members");
    let used: BTreeSet<_> = list(&metadata, "packages")
        .iter()
        .filter(|package| members.contains(&package["id"]))
        .flat_map(|package| list(package, "dependencies"))
        .filter(|dependency| dependency["path"].is_null())
        .map(|dependency| dependency["name"].as_str().unwrap().to_owned())
        .collect();
    let missing: Vec<_> = used.difference(&explained).collect();
    let gone: Vec<_> = explained.difference(&used).collect();
    assert!(missing.is_empty(), "docs/dependencies.md does not explain {missing:?}");
    assert!(gone.is_empty(), "docs/dependencies.md explains what nothing uses: {gone:?}");
}

/// `1.95.0` and `1.95` as 1, 95.
fn version(package: &Value) -> Option<(u32, u32)> {
    let mut numbers = package["rust_version"].as_str()?.split('.').map(|part| part.parse().unwrap());
    Some((numbers.next()?, numbers.next()?))
}

#[test]
fn each_package_states_a_rust_that_builds_it() {
    let metadata = metadata();
    let packages: HashMap<_, _> = list(&metadata, "packages").iter().map(|package| (&package["id"], package)).collect();
    let nodes: HashMap<_, _> = list(&metadata["resolve"], "nodes").iter().map(|node| (&node["id"], node)).collect();
    for member in list(&metadata, "workspace_members") {
        let name = &packages[member]["name"];
        let stated = version(packages[member]).unwrap_or_else(|| panic!("{name} states no rust-version"));
        let (mut open, mut seen) = (vec![member], BTreeSet::new());
        while let Some(id) = open.pop() {
            if !seen.insert(id.as_str()) {
                continue;
            }
            let (needed, of) = (version(packages[id]).unwrap_or_default(), &packages[id]["name"]);
            assert!(needed <= stated, "{name} states Rust {stated:?}, and {of} needs {needed:?}");
            let needs = |dependency: &&Value| list(dependency, "dep_kinds").iter().any(|kind| kind["kind"] != "dev");
            open.extend(list(nodes[id], "deps").iter().filter(needs).map(|dependency| &dependency["pkg"]));
        }
    }
    let stated = version(packages[&list(&metadata, "workspace_default_members")[0]]).unwrap();
    let readme = format!("Rust {}.{} or later", stated.0, stated.1);
    assert!(include_str!("../README.md").contains(&readme), "the README does not say {readme}");
}

#[test]
fn the_packages_use_each_other_as_drawn() {
    let page = include_str!("../docs/architecture.md");
    let drawn: BTreeSet<(&str, &str)> = page.lines().filter_map(|line| line.trim().split_once(" --> ")).collect();
    let metadata = metadata();
    let short = |package: &Value| package["name"].as_str().unwrap().trim_start_matches("jobgate-").to_owned();
    let members = list(&metadata, "workspace_members");
    let mut used: BTreeSet<(String, String)> = BTreeSet::new();
    for package in list(&metadata, "packages").iter().filter(|package| members.contains(&package["id"])) {
        let ours = list(package, "dependencies").iter().filter(|other| other["path"].is_string());
        used.extend(ours.filter(|other| other["kind"].is_null()).map(|other| (short(package), short(other))));
    }
    let leads = |from: &str, to: &str| {
        let mut open = vec![from];
        while let Some(at) = open.pop() {
            if at == to {
                return true;
            }
            open.extend(drawn.iter().filter(|(user, _)| *user == at).map(|(_, other)| *other));
        }
        false
    };
    for (user, other) in &drawn {
        assert!(used.contains(&((*user).to_owned(), (*other).to_owned())), "{user} does not use {other}");
    }
    let apart = ["examples", "bench"];
    for (user, other) in used.iter().filter(|(user, _)| !apart.contains(&user.as_str())) {
        assert!(leads(user, other), "{user} uses {other}, which docs/architecture.md does not draw");
    }
    assert!(!leads("controllers", "router") && !leads("router", "controllers"));
}
