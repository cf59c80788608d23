//! The engine's builtins, each judged once. A test fails when the engine has one that is not in this table.

/// What a policy may do with a builtin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// Call it. Its work is bounded by what it is given.
    Call,
    /// Call it; the result holds parts of its arguments.
    Passes,
    /// Call it; the numbers that bound its work must be literals, and give at most [`RANGE_LIMIT`] elements.
    LiteralRange,
    /// Call it; these arguments must be literals. The reason says why.
    Literal(&'static [usize], &'static str),
    /// Call it; the argument must be a literal regular expression that compiles.
    Pattern(usize),
    /// Not at all; the text says what to write instead.
    Refused(&'static str),
}

/// Elements of a `numbers.range` and the like.
pub(crate) const RANGE_LIMIT: i64 = 10_000;

use Use::{Call, Literal, LiteralRange, Passes, Pattern, Refused};

const NO_CALLS: &str =
    "a policy makes no calls; put what it needs to know into `data.json`, or write a controller with the SDK";
const NO_CLOCK: &str = "use `input.time`, which is the same whenever the question is asked again";
const NO_CHANCE: &str = "the same question must get the same answer; use `input.id` where a value per job is needed";
const NO_BOUND: &str = "its work has no bound";

/// The judgement of every builtin, sorted by name.
const BUILTINS: &[(&str, Use)] = &[
    ("__builtin_sets.intersection", Refused("write `a & b`")),
    ("__builtin_sets.union", Refused("write `a | b`")),
    ("abs", Call),
    ("array.concat", Passes),
    ("array.reverse", Passes),
    ("array.slice", Passes),
    ("base64.decode", Call),
    ("base64.encode", Call),
    ("base64.is_valid", Call),
    ("base64url.decode", Call),
    ("base64url.encode", Call),
    ("base64url.encode_no_pad", Call),
    ("bits.and", Call),
    ("bits.lsh", Literal(&[1], "a large shift makes a number of any size")),
    ("bits.negate", Call),
    ("bits.or", Call),
    ("bits.rsh", Call),
    ("bits.xor", Call),
    ("ceil", Call),
    ("concat", Call),
    ("contains", Call),
    ("count", Call),
    ("endswith", Call),
    ("floor", Call),
    ("format_int", Call),
    ("glob.match", Literal(&[0, 1], "what it matches must be known before it is evaluated")),
    ("glob.quote_meta", Call),
    ("graph.reachable", Refused(NO_BOUND)),
    ("graph.reachable_paths", Refused(NO_BOUND)),
    ("hex.decode", Call),
    ("hex.encode", Call),
    ("indexof", Call),
    ("indexof_n", Call),
    ("intersection", Passes),
    ("is_array", Call),
    ("is_boolean", Call),
    ("is_null", Call),
    ("is_number", Call),
    ("is_object", Call),
    ("is_set", Call),
    ("is_string", Call),
    ("json.filter", Call),
    ("json.is_valid", Call),
    ("json.marshal", Call),
    ("json.marshal_with_options", Call),
    ("json.remove", Call),
    ("json.unmarshal", Call),
    ("lower", Call),
    ("max", Passes),
    ("min", Passes),
    ("net.cidr_contains", Call),
    ("net.cidr_expand", Refused("it lists every address of a network; use `net.cidr_contains`")),
    ("net.cidr_is_valid", Call),
    ("numbers.range", LiteralRange),
    ("numbers.range_step", LiteralRange),
    ("object.filter", Passes),
    ("object.get", Passes),
    ("object.keys", Call),
    ("object.remove", Passes),
    ("object.subset", Call),
    ("object.union", Passes),
    ("object.union_n", Passes),
    ("print", Call),
    ("product", Call),
    ("rand.intn", Refused(NO_CHANCE)),
    ("regex.find_all_string_submatch_n", Pattern(0)),
    ("regex.find_n", Pattern(0)),
    ("regex.is_valid", Call),
    ("regex.match", Pattern(0)),
    ("regex.replace", Pattern(1)),
    ("regex.split", Pattern(0)),
    ("regex.template_match", Refused("use `regex.match` with a literal pattern")),
    ("replace", Call),
    ("round", Call),
    ("semver.compare", Call),
    ("semver.is_valid", Call),
    ("sort", Passes),
    ("split", Call),
    ("sprintf", Literal(&[0], "its widths must be known before it is evaluated")),
    ("startswith", Call),
    ("strings.any_prefix_match", Call),
    ("strings.any_suffix_match", Call),
    ("strings.count", Call),
    ("strings.replace_n", Call),
    ("strings.reverse", Call),
    ("substring", Call),
    ("sum", Call),
    ("time.add_date", Call),
    ("time.clock", Call),
    ("time.date", Call),
    ("time.diff", Call),
    ("time.format", Call),
    ("time.now_ns", Refused(NO_CLOCK)),
    ("time.parse_duration_ns", Call),
    ("time.parse_ns", Call),
    ("time.parse_rfc3339_ns", Call),
    ("time.weekday", Call),
    ("to_number", Call),
    ("trace", Call),
    ("trim", Call),
    ("trim_left", Call),
    ("trim_prefix", Call),
    ("trim_right", Call),
    ("trim_space", Call),
    ("trim_suffix", Call),
    ("type_name", Call),
    ("union", Passes),
    ("units.parse", Call),
    ("units.parse_bytes", Call),
    ("upper", Call),
    ("walk", Call),
];

/// Functions of OPA that the engine does not have, or has as a stub that does nothing.
const ABSENT: &[(&str, &str)] = &[
    ("http.send", NO_CALLS),
    ("net.lookup_ip_addr", NO_CALLS),
    ("opa.runtime", "the program's environment is no part of the question; put what the policy needs into `data.json`"),
    ("rego.metadata.chain", "write the text into the element of `deny`"),
    ("rego.metadata.rule", "write `rule` into the element of `deny`"),
    ("uuid.rfc4122", NO_CHANCE),
    ("uuid.parse", "compare the text"),
    ("yaml.unmarshal", "put the value into `data.yaml`"),
    ("regex.globs_match", "use `glob.match` with a literal pattern"),
    ("strings.render_template", "use `sprintf`"),
];

/// What may be done with a builtin; `None`: there is none of this name.
pub(crate) fn find(name: &str) -> Option<Use> {
    let known = BUILTINS.binary_search_by_key(&name, |(name, _)| name).ok().map(|index| BUILTINS[index].1);
    known.or_else(|| ABSENT.iter().find(|(absent, _)| *absent == name).map(|(_, help)| Refused(help)))
}

/// The arguments a builtin takes; `None`: any number.
pub(crate) fn arity(name: &str) -> Option<usize> {
    regorus::unstable::BUILTINS.get(name).map(|(_, arity)| usize::from(*arity))
}

/// The names a policy may call, for "did you mean".
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    BUILTINS.iter().filter(|(_, may)| !matches!(may, Refused(_))).map(|(name, _)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_builtin_of_the_engine_is_judged() {
        for name in regorus::unstable::BUILTINS.keys() {
            assert!(BUILTINS.iter().any(|(known, _)| known == name), "{name} is new: judge it");
        }
        for (name, _) in BUILTINS {
            assert!(*name == "print" || regorus::unstable::BUILTINS.contains_key(name), "{name} is gone");
        }
        assert!(BUILTINS.is_sorted_by_key(|(name, _)| *name));
        assert!(ABSENT.iter().all(|(name, _)| !regorus::unstable::BUILTINS.contains_key(name)));
    }
}
