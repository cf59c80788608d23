/// The name of `known` that `name` was probably meant to be.
///
/// Case, `-` and `_` do not count; beyond that at most a third of the letters may differ.
#[must_use]
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_lowercase().replace(['-', '_'], "");
    let name = plain(name);
    let allowed = 1 + name.chars().count() / 3;
    known
        .into_iter()
        .map(|candidate| (strsim::damerau_levenshtein(&name, &plain(candidate)), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_finds_what_was_meant_and_nothing_else() {
        let known = ["projects", "image_tag", "image"];
        assert_eq!(nearest("project", known), Some("projects"));
        assert_eq!(nearest("imageTag", known), Some("image_tag"));
        assert_eq!(nearest("colour", known), None);
    }
}
