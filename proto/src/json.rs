//! Fields whose JSON form is not what `derive` would write: times, durations, kinds.

/// RFC 3339 in UTC, as `2026-11-21T08:00:00Z`.
pub(crate) mod time {
    use jiff::Timestamp;
    use serde::{Deserialize, Deserializer, Serializer, de, ser};

    pub(crate) fn serialize<S: Serializer>(time: &Option<prost_types::Timestamp>, to: S) -> Result<S::Ok, S::Error> {
        let Some(time) = time else { return to.serialize_none() };
        let time = Timestamp::new(time.seconds, time.nanos).map_err(ser::Error::custom)?;
        to.collect_str(&time)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<prost_types::Timestamp>, D::Error> {
        let Some(text) = Option::<String>::deserialize(from)? else { return Ok(None) };
        let time: Timestamp = text.parse().map_err(de::Error::custom)?;
        Ok(Some(prost_types::Timestamp { seconds: time.as_second(), nanos: time.subsec_nanosecond() }))
    }
}

/// Seconds with an `s`, as `1.5s`: the form protobuf itself gives durations.
pub(crate) mod duration {
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(crate) fn serialize<S: Serializer>(span: &Option<prost_types::Duration>, to: S) -> Result<S::Ok, S::Error> {
        match span {
            Some(span) => to.collect_str(span),
            None => to.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<prost_types::Duration>, D::Error> {
        let Some(text) = Option::<String>::deserialize(from)? else { return Ok(None) };
        text.parse().map(Some).map_err(de::Error::custom)
    }
}

/// An enumeration as the lower-case tail of its value's name: `JOB_STATE_RUNNING` is `running`.
macro_rules! kind {
    (@names $module:ident, $type:path, $prefix:literal) => {
        use serde::{Deserialize, Deserializer, Serializer, de};
        use $type as Kind;

        fn name(number: i32) -> Option<String> {
            let kind = Kind::try_from(number).ok()?;
            kind.as_str_name().strip_prefix($prefix).filter(|name| *name != "UNSPECIFIED").map(str::to_ascii_lowercase)
        }

        fn number<E: de::Error>(name: &str) -> Result<i32, E> {
            let full = format!("{}{}", $prefix, name.to_ascii_uppercase());
            match Kind::from_str_name(&full) {
                Some(kind) if kind as i32 != 0 => Ok(kind as i32),
                _ => Err(E::custom(format_args!("`{name}` is not a {}", stringify!($module)))),
            }
        }
    };
    (optional $module:ident, $type:path, $prefix:literal) => {
        pub(crate) mod $module {
            kind!(@names $module, $type, $prefix);

            pub(crate) fn serialize<S: Serializer>(kind: &Option<i32>, to: S) -> Result<S::Ok, S::Error> {
                match kind.and_then(name) {
                    Some(name) => to.serialize_str(&name),
                    None => to.serialize_none(),
                }
            }

            pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<i32>, D::Error> {
                Option::<String>::deserialize(from)?.map(|name| number(&name)).transpose()
            }
        }
    };
    (plain $module:ident, $type:path, $prefix:literal) => {
        pub(crate) mod $module {
            kind!(@names $module, $type, $prefix);

            pub(crate) fn serialize<S: Serializer>(kind: &i32, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(name(*kind).as_deref().unwrap_or("unknown"))
            }

            pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<i32, D::Error> {
                number(&String::deserialize(from)?)
            }
        }
    };
}

kind!(optional ref_type, crate::admission::v1::RefType, "REF_TYPE_");
kind!(optional runner_type, crate::admission::v1::RunnerType, "RUNNER_TYPE_");
kind!(plain job_state, crate::job::v1::JobState, "JOB_STATE_");
