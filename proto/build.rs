//! Compiles the `.proto` files with `protox`, a Rust compiler: no `protoc` is needed anywhere.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message;

const FILES: [&str; 4] = [
    "jobgate/admission/v1/admission.proto",
    "jobgate/job/v1/job.proto",
    "jobgate/runner/v1/runner.proto",
    "gitlab/agent/job_router/rpc/job_router.proto",
];

/// Messages that have a JSON form: the question with all its parts, and what REST answers.
const JSON_MESSAGES: [&str; 15] = [
    "jobgate.admission.v1.AdmitRequest",
    "jobgate.admission.v1.Job",
    "jobgate.admission.v1.Strings",
    "jobgate.admission.v1.Script",
    "jobgate.admission.v1.ScriptLine",
    "jobgate.admission.v1.Image",
    "jobgate.admission.v1.Service",
    "jobgate.admission.v1.Variable",
    "jobgate.admission.v1.Project",
    "jobgate.admission.v1.User",
    "jobgate.admission.v1.Runner",
    "jobgate.job.v1.Submitted",
    "jobgate.job.v1.SubmitResponse",
    "jobgate.job.v1.JobRecord",
    "jobgate.job.v1.ListResponse",
];

/// Messages that are written as their only field.
const TRANSPARENT: [&str; 2] = ["jobgate.admission.v1.Strings", "jobgate.admission.v1.Script"];

/// Fields that are unknown when unset, and then left out of the JSON form.
const UNKNOWN_LEFT_OUT: [(&str, &[&str]); 8] = [
    ("jobgate.admission.v1.AdmitRequest", &["job", "project", "user", "runner"]),
    (
        "jobgate.admission.v1.Job",
        &[
            "source_id",
            "name",
            "stage",
            "pipeline_id",
            "source",
            "ref",
            "protected",
            "sha",
            "environment",
            "tags",
            "image",
            "timeout_seconds",
            "script",
        ],
    ),
    ("jobgate.admission.v1.Image", &["registry", "repository", "tag", "digest", "user", "platform"]),
    ("jobgate.admission.v1.Variable", &["value"]),
    ("jobgate.admission.v1.Project", &["id"]),
    ("jobgate.admission.v1.User", &["id", "login"]),
    ("jobgate.admission.v1.Runner", &["id", "tags", "run_untagged", "protected", "version", "platform", "executor"]),
    ("jobgate.job.v1.JobRecord", &["source_id", "runner", "lease", "name", "exit_code"]),
];

/// Fields written in a form of their own: the module of `crate::json` that does it, and whether unset means left out.
const SPECIAL: [(&str, &str, bool); 11] = [
    ("jobgate.admission.v1.AdmitRequest.time", "time", true),
    ("jobgate.admission.v1.AdmitRequest.time_left", "duration", true),
    ("jobgate.admission.v1.Job.ref_type", "ref_type", true),
    ("jobgate.admission.v1.Runner.type", "runner_type", true),
    ("jobgate.job.v1.Submitted.state", "job_state", false),
    ("jobgate.job.v1.JobRecord.state", "job_state", false),
    ("jobgate.job.v1.JobRecord.submitted_at", "time", true),
    ("jobgate.job.v1.JobRecord.admitted_at", "time", true),
    ("jobgate.job.v1.JobRecord.assigned_at", "time", true),
    ("jobgate.job.v1.JobRecord.started_at", "time", true),
    ("jobgate.job.v1.JobRecord.finished_at", "time", true),
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;

    let mut config = tonic_prost_build::configure();
    for package in [".jobgate.runner.v1", ".jobgate.job.v1", ".gitlab.agent.job_router.rpc"] {
        config = config.bytes(package);
    }
    // These hold job documents or tokens: `lib.rs` prints them as `[redacted]`.
    config = config.skip_debug([
        "jobgate.runner.v1.Assign",
        "jobgate.job.v1.SubmitRequest",
        "gitlab.agent.job_router.rpc.GetJobRequest",
        "gitlab.agent.job_router.rpc.GetJobResponse",
    ]);
    for message in JSON_MESSAGES {
        config = config
            .type_attribute(message, "#[derive(serde::Serialize, serde::Deserialize)]")
            .type_attribute(message, "#[serde(default)]");
    }
    for message in TRANSPARENT {
        config = config.type_attribute(message, "#[serde(transparent)]");
    }
    let left_out = "#[serde(skip_serializing_if = \"Option::is_none\")]";
    for (message, fields) in UNKNOWN_LEFT_OUT {
        for field in fields {
            config = config.field_attribute(format!("{message}.{field}"), left_out);
        }
    }
    for (field, module, optional) in SPECIAL {
        config = config.field_attribute(field, format!("#[serde(with = \"crate::json::{module}\")]"));
        if optional {
            config = config.field_attribute(field, left_out);
        }
    }
    config = config.field_attribute("jobgate.admission.v1.Service.image", "#[serde(flatten)]");
    config.compile_fds(descriptors)?;
    Ok(())
}
