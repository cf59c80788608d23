//! What was released stays: routers and controllers of different versions talk to each other.
//!
//! `testdata/released.binpb` is the descriptor set of the last release. Additions are fine; anything else that changed fails
//! here. After a release, or before the first one, write it anew with `JOBGATE_BLESS=1 cargo test -p jobgate-proto`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{collections::BTreeMap, env, fs, path::PathBuf};

use prost::Message;
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorSet};

/// Everything that peers rely on: its name, and what must not change about it.
type Surface = BTreeMap<String, String>;

#[test]
fn what_was_released_has_not_changed() {
    let current = ours(FileDescriptorSet::decode(jobgate_proto::DESCRIPTORS).unwrap());
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/released.binpb");
    if env::var_os("JOBGATE_BLESS").is_some() {
        fs::write(&path, current.encode_to_vec()).unwrap();
    }
    let released = FileDescriptorSet::decode(fs::read(&path).unwrap().as_slice()).unwrap();
    let broken = broken(&surface(&released), &surface(&current));
    assert!(
        broken.is_empty(),
        "these changes break peers of the last release:\n{}\nAdd a new field or message, and leave the old one. \
         Nothing of this was released? Then `JOBGATE_BLESS=1 cargo test -p jobgate-proto`, and say so in the commit.",
        broken.join("\n")
    );
}

#[test]
fn every_kind_of_breaking_change_is_found() {
    let current = ours(FileDescriptorSet::decode(jobgate_proto::DESCRIPTORS).unwrap());
    let released = surface(&current);
    let after = |change: fn(&mut DescriptorProto)| {
        let mut changed = current.clone();
        let message = changed.file.iter_mut().flat_map(|file| &mut file.message_type);
        change(message.into_iter().find(|message| message.name() == "AdmitResponse").unwrap());
        broken(&released, &surface(&changed))
    };
    let changes: [fn(&mut DescriptorProto); 7] = [
        |message| drop(message.field.remove(0)),
        |message| message.field[0].number = Some(99),
        |message| message.field[0].name = Some("identity".into()),
        |message| message.field[0].r#type = Some(prost_types::field_descriptor_proto::Type::Bytes.into()),
        |message| message.field[0].label = Some(prost_types::field_descriptor_proto::Label::Repeated.into()),
        |message| message.field[2].oneof_index = None,
        |message| message.name = Some("Answer".into()),
    ];
    for (n, change) in changes.into_iter().enumerate() {
        assert!(!after(change).is_empty(), "change {n} went unnoticed");
    }
    let added = after(|message| {
        let new = prost_types::FieldDescriptorProto { number: Some(50), ..message.field[0].clone() };
        message.field.push(prost_types::FieldDescriptorProto { name: Some("new".into()), ..new });
    });
    assert_eq!(added, Vec::<String>::new(), "an addition is no break");

    let mut unserved = current.clone();
    for file in &mut unserved.file {
        for service in &mut file.service {
            service.method[0].server_streaming = Some(!service.method[0].server_streaming());
        }
        for kind in &mut file.enum_type {
            kind.value[1].number = Some(77);
        }
    }
    let changed: usize = current.file.iter().map(|file| file.service.len() + file.enum_type.len()).sum();
    assert_eq!(
        broken(&released, &surface(&unserved)).len(),
        changed,
        "one method of each service, one value of each enum"
    );
}

/// The lines of `released` that are not in `current`, or are otherwise there.
fn broken(released: &Surface, current: &Surface) -> Vec<String> {
    let lines = released.iter().filter_map(|(name, was)| match current.get(name) {
        Some(is) if is == was => None,
        Some(is) => Some(format!("  {name}: was `{was}`, is `{is}`")),
        None => Some(format!("  {name}: was `{was}`, is gone")),
    });
    lines.collect()
}

/// Only our files, without their comments.
fn ours(mut set: FileDescriptorSet) -> FileDescriptorSet {
    set.file.retain(|file| file.package().starts_with("jobgate."));
    for file in &mut set.file {
        file.source_code_info = None;
    }
    set
}

fn surface(set: &FileDescriptorSet) -> Surface {
    let mut surface = Surface::new();
    for file in &set.file {
        for message in &file.message_type {
            add_message(&mut surface, file.package(), message);
        }
        for kind in &file.enum_type {
            add_enum(&mut surface, file.package(), kind);
        }
        for service in &file.service {
            for method in &service.method {
                let stream = |yes| if yes { "stream " } else { "" };
                let (asks, answers) = (stream(method.client_streaming()), stream(method.server_streaming()));
                surface.insert(
                    format!("{}.{}/{}", file.package(), service.name(), method.name()),
                    format!("({asks}{}) returns ({answers}{})", method.input_type(), method.output_type()),
                );
            }
        }
    }
    surface
}

fn add_message(surface: &mut Surface, scope: &str, message: &DescriptorProto) {
    let scope = format!("{scope}.{}", message.name());
    surface.insert(scope.clone(), "message".into());
    for field in &message.field {
        // The synthetic oneof of an `optional` field says only that it is one.
        let oneof = field.oneof_index.filter(|_| !field.proto3_optional());
        let oneof = oneof.and_then(|index| message.oneof_decl.get(index as usize)).map_or("", |oneof| oneof.name());
        surface.insert(
            format!("{scope}.{}", field.number()),
            format!(
                "{} {:?} {:?} {} optional={} oneof={oneof}",
                field.name(),
                field.label(),
                field.r#type(),
                field.type_name(),
                field.proto3_optional(),
            ),
        );
    }
    for nested in &message.nested_type {
        add_message(surface, &scope, nested);
    }
    for kind in &message.enum_type {
        add_enum(surface, &scope, kind);
    }
}

fn add_enum(surface: &mut Surface, scope: &str, kind: &EnumDescriptorProto) {
    for value in &kind.value {
        surface.insert(format!("{scope}.{}.{}", kind.name(), value.number()), value.name().into());
    }
}
