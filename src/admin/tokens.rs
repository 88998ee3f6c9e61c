//! Named tokens: who holds one, what it permits, and the file that lists them.
//!
//! Owns the format of the file, its hashes, and how it is read again when it changes. The file has
//! no secret: a token is 32 random bytes, so nobody can find it from its SHA-256.
//! Invariant: an invalid file changes nothing.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Arc, Weak},
    thread,
    time::Duration,
};

use arc_swap::ArcSwap;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::OptionsError;

/// How often the file is checked for changes.
const LOOKED_AT_EVERY: Duration = Duration::from_secs(1);
/// Maximum size of the file, bytes.
const LARGEST: u64 = 1024 * 1024;
/// Maximum length of a name, bytes.
const LONGEST_NAME: usize = 64;
/// The prefix of a hash.
const SCHEME: &str = "sha256:";

/// The SHA-256 of a token.
pub(super) type Hash = [u8; 32];

pub(super) fn hash(token: &[u8]) -> Hash {
    Sha256::digest(token).into()
}

/// What a token permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Role {
    /// Reading: `GET`.
    Read,
    /// Reading and every command.
    Command,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Command => "command",
        })
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        match word {
            "read" => Ok(Self::Read),
            "command" => Ok(Self::Command),
            _ => Err(format!("{word:?} is not a role: read or command")),
        }
    }
}

/// A new token for [`tokens_from_file`](super::Options::tokens_from_file).
///
/// ```
/// use commontrip::admin::{NewToken, Role};
///
/// let token = NewToken::generate("ana", Role::Command)?;
/// assert!(token.line().starts_with("ana command sha256:"));
/// # Ok::<(), commontrip::admin::OptionsError>(())
/// ```
pub struct NewToken {
    holder: Holder,
    secret: String,
}

impl NewToken {
    /// Generates a token of 32 random bytes. The name has 1 to 64 letters, digits, `-`, `_`, `.`
    /// and `@`.
    ///
    /// # Errors
    /// [`OptionsError::TokenName`] when the name is not valid; [`OptionsError::Random`] when the
    /// machine has no random numbers.
    pub fn generate(name: &str, role: Role) -> Result<Self, OptionsError> {
        if !is_name(name) {
            let words = format!("{name:?} is not a name: {}", name_in_words());
            return Err(OptionsError::TokenName(words));
        }
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(|_| OptionsError::Random)?;
        let secret = hex(&random);
        let holder = Holder {
            name: name.into(),
            role,
            hash: hash(secret.as_bytes()),
        };
        Ok(Self { holder, secret })
    }

    /// The token itself, which its holder sends.
    #[must_use]
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// The line for the file, which has only the hash of the token.
    #[must_use]
    pub fn line(&self) -> String {
        let Holder { name, role, hash } = &self.holder;
        format!("{name} {role} {SCHEME}{}", hex(hash))
    }
}

impl fmt::Debug for NewToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewToken")
            .field("holder", &self.holder)
            .field("secret", &"***")
            .finish()
    }
}

/// The holder of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) name: Arc<str>,
    pub(super) role: Role,
    hash: Hash,
}

/// The tokens of a file.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Tokens(Vec<Holder>);

impl Tokens {
    /// The holder of the token with this hash, in a time that depends only on the number of tokens.
    fn holder(&self, hash: &Hash) -> Option<&Holder> {
        let mut found = None;
        for holder in &self.0 {
            let same: Choice = holder.hash.ct_eq(hash);
            if same.into() {
                found = Some(holder);
            }
        }
        found
    }

    /// The holders with their highest roles, in one line.
    fn in_words(&self) -> String {
        let mut names: BTreeMap<&str, Role> = BTreeMap::new();
        for holder in &self.0 {
            let most = names.entry(&holder.name).or_insert(holder.role);
            *most = holder.role.max(*most);
        }
        let names = names.iter().map(|(name, role)| format!("{name} ({role})"));
        names.collect::<Vec<_>>().join(", ")
    }
}

impl FromStr for Tokens {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut tokens: Vec<Holder> = Vec::new();
        let mut lines = Vec::new();
        for (line, text) in (1..).zip(text.lines().map(str::trim)) {
            if text.is_empty() || text.starts_with('#') {
                continue;
            }
            let holder = holder(text).map_err(|words| format!("line {line}: {words}"))?;
            let same = tokens.iter().position(|other| other.hash == holder.hash);
            if let Some(at) = same {
                return Err(format!(
                    "line {line}: the token is that of line {}",
                    lines[at]
                ));
            }
            tokens.push(holder);
            lines.push(line);
        }
        match tokens.is_empty() {
            true => Err("it has no token".to_owned()),
            false => Ok(Self(tokens)),
        }
    }
}

/// Parses `name role sha256:hex`. Errors quote nothing: any word may be a token by mistake.
fn holder(line: &str) -> Result<Holder, String> {
    let mut words = line.split_whitespace();
    let (Some(name), Some(role), Some(hash), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err("a line is a name, a role and a hash, as `commontrip token` prints it".into());
    };
    if !is_name(name) {
        return Err(format!("the name is not {}", name_in_words()));
    }
    let role: Result<Role, _> = role.parse();
    let digits = hash.strip_prefix(SCHEME).and_then(unhex);
    let wrong = || format!("the hash is not {SCHEME} and 64 hexadecimal digits");
    Ok(Holder {
        name: name.into(),
        role: role.map_err(|_| "the role is not read or command")?,
        hash: digits.ok_or_else(wrong)?,
    })
}

fn is_name(name: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || "-_.@".contains(c);
    (1..=LONGEST_NAME).contains(&name.len()) && name.chars().all(known)
}

fn name_in_words() -> String {
    format!("1 to {LONGEST_NAME} letters, digits, and -, _, ., @")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(digits: &str) -> Option<Hash> {
    let mut hash = [0; 32];
    let is_whole = digits.len() == 64 && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    for (at, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(digits.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    is_whole.then_some(hash)
}

/// A file of tokens, read again when it changes.
#[derive(Debug)]
pub(super) struct TokenFile {
    path: PathBuf,
    now: ArcSwap<Tokens>,
}

impl TokenFile {
    /// Reads a file, and then checks it once a second, on a thread that ends with the last
    /// reference.
    pub(super) fn open(path: &Path) -> Result<Arc<Self>, OptionsError> {
        let text = read(path).map_err(|error| OptionsError::File(path.to_owned(), error))?;
        let tokens: Tokens = text
            .parse()
            .map_err(|words| OptionsError::Tokens(path.to_owned(), words))?;
        let file = Arc::new(Self {
            path: path.to_owned(),
            now: ArcSwap::from_pointee(tokens),
        });
        let weak = Arc::downgrade(&file);
        thread::Builder::new()
            .name("commontrip-tokens".to_owned())
            .spawn(move || look(&weak, Ok(text)))
            .map_err(|error| OptionsError::File(path.to_owned(), error))?;
        Ok(file)
    }

    /// The holder of the token with this hash.
    pub(super) fn holder(&self, hash: &Hash) -> Option<Holder> {
        self.now.load().holder(hash).cloned()
    }

    fn take(&self, text: &Result<String, String>) {
        let file = self.path.display();
        let tokens = text.as_ref().map_err(Clone::clone);
        match tokens.and_then(|text| text.parse::<Tokens>()) {
            Ok(tokens) => {
                let (count, names) = (tokens.0.len(), tokens.in_words());
                self.now.store(Arc::new(tokens));
                tracing::info!(%file, count, %names, "the tokens were read again");
            }
            Err(error) => {
                let names = self.now.load().in_words();
                tracing::warn!(%file, %error, %names, "the tokens stay as they were: the file cannot be used");
            }
        }
    }
}

/// Applies changes of the file until the last reference is dropped.
fn look(file: &Weak<TokenFile>, mut seen: Result<String, String>) {
    loop {
        thread::sleep(LOOKED_AT_EVERY);
        let Some(file) = file.upgrade() else { return };
        let now = read(&file.path).map_err(|error| error.to_string());
        if now != seen {
            file.take(&now);
            seen = now;
        }
    }
}

fn read(path: &Path) -> io::Result<String> {
    let bytes = fs::metadata(path)?.len();
    if bytes > LARGEST {
        let words = format!("it has {bytes} bytes, but at most {LARGEST} are read");
        return Err(io::Error::other(words));
    }
    fs::read_to_string(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_token_is_known_by_its_line() {
        let ana = NewToken::generate("ana", Role::Command).unwrap();
        let grafana = NewToken::generate("grafana@ops", Role::Read).unwrap();
        assert_eq!(ana.secret().len(), 64);
        assert_ne!(ana.secret(), grafana.secret());
        assert!(!ana.line().contains(ana.secret()));
        assert!(!format!("{ana:?}").contains(ana.secret()));
        let file = format!("# who\n\n{}\n  {}  \r\n", ana.line(), grafana.line());
        let tokens: Tokens = file.parse().unwrap();
        let holder = |token: &NewToken| tokens.holder(&hash(token.secret().as_bytes()));
        let ana = holder(&ana).unwrap();
        assert_eq!((&*ana.name, ana.role), ("ana", Role::Command));
        assert_eq!(holder(&grafana).unwrap().role, Role::Read);
        assert_eq!(tokens.holder(&hash(b"")), None);
        assert_eq!(tokens.in_words(), "ana (command), grafana@ops (read)");
    }

    #[test]
    fn a_name_may_have_two_tokens_while_one_replaces_the_other() {
        let [old, new] = [0, 1].map(|_| NewToken::generate("ana", Role::Command).unwrap());
        let tokens: Tokens = format!("{}\n{}", old.line(), new.line()).parse().unwrap();
        for token in [old, new] {
            assert!(tokens.holder(&hash(token.secret().as_bytes())).is_some());
        }
    }

    #[test]
    fn a_file_that_is_none_says_in_which_line_and_quotes_no_secret() {
        let good = NewToken::generate("ana", Role::Read).unwrap();
        let (line, digits) = (good.line(), &good.secret());
        let swapped = [
            format!("{digits} read ana"),
            format!("{digits} ana read"),
            format!("ana {digits} read"),
            format!("ana read {digits}"),
            format!("read ana {digits}"),
            format!("{digits}: read {SCHEME}{digits}"),
            format!("{digits} {SCHEME}{digits} read"),
        ];
        for text in &swapped {
            let error = text.parse::<Tokens>().unwrap_err();
            assert!(error.starts_with("line 1: "), "{error}");
            assert!(!error.contains(*digits), "{error}");
        }
        for (text, words) in [
            ("", "no token"),
            ("# nobody\n", "no token"),
            ("ana", "line 1: a line is"),
            (&format!("{line} x"), "line 1: a line is"),
            (
                &format!("\nana admin {SCHEME}{digits}"),
                "line 2: the role is not read or command",
            ),
            (
                &format!("ana read {digits}"),
                "line 1: the hash is not sha256:",
            ),
            (
                &format!("ana read {SCHEME}{digits}00"),
                "line 1: the hash is not",
            ),
            (&format!("ana read {SCHEME}{}", "+1".repeat(32)), "the hash"),
            (&format!("ana read {SCHEME}{}", "é".repeat(32)), "the hash"),
            (
                &format!("a:b read {SCHEME}{digits}"),
                "line 1: the name is not 1 to 64 letters",
            ),
            (
                &format!("{line}\n{}", line.replace("ana", "bob")),
                "line 2: the token is that of line 1",
            ),
        ] {
            let error = text.parse::<Tokens>().unwrap_err();
            assert!(error.contains(words), "{error}");
            assert!(!error.contains(*digits), "{error}");
        }
        for name in ["", "a b", "ä", &"x".repeat(65)] {
            NewToken::generate(name, Role::Read).unwrap_err();
        }
    }
}
