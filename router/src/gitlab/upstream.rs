//! The connections to GitLab.
