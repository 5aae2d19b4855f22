//! What is never printed, also not by way of the error of another.

/// Stands for what is left out.
const HIDDEN: &str = "(hidden)";

/// Shortest password that is looked for by itself: a shorter one stands in many words by chance.
const MIN_PASSWORD_BYTES: usize = 4;

/// Texts that must not show.
pub(crate) struct Secrets(Vec<String>);

impl Secrets {
    /// The URL of a database, and the password in it.
    pub(crate) fn of(url: Option<&str>) -> Self {
        Self(url.map(parts).unwrap_or_default())
    }

    /// Whatever looks like an URL.
    pub(crate) fn in_arguments(arguments: impl Iterator<Item = String>) -> Self {
        let urls = arguments.filter(|argument| argument.contains("://"));
        let mut all: Vec<String> = urls.flat_map(|argument| parts(&argument)).collect();
        all.extend(std::env::var("DATABASE_URL").iter().flat_map(|url| parts(url)));
        Self(all)
    }

    pub(crate) fn hidden_in(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, secret| text.replace(secret, HIDDEN))
    }
}

/// The longest first, so that no part of one is left.
fn parts(url: &str) -> Vec<String> {
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    let password = rest.rsplit_once('@').and_then(|(user, _)| user.split_once(':')).map(|(_, password)| password);
    let all = [Some(url), Some(rest), password.filter(|password| password.len() >= MIN_PASSWORD_BYTES)];
    all.into_iter().flatten().filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_url_nor_password_is_left() {
        let url = "postgres://root:s3cr@t@host:5432/shop";
        let text = format!("a {url} b s3cr@t c host:5432 d");
        assert_eq!(Secrets::of(Some(url)).hidden_in(&text), "a (hidden) b (hidden) c host:5432 d");
        assert_eq!(Secrets::of(Some("mysql://root:x@host/shop")).hidden_in("an export"), "an export");
        assert_eq!(Secrets::of(None).hidden_in("as it is"), "as it is");
    }
}
