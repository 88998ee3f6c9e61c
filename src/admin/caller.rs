//! Whose token a request has, and what it permits.
//!
//! Owns `Authorization`, roles, and who is named as the author of a command.

use std::net::IpAddr;

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, StatusCode, header, request::Parts},
};

use super::{
    App, Options,
    options::Caller,
    problem::Problem,
    tokens::{Holder, Role},
};
use crate::{Note, operator::Operator};

const REALM: &str = r#"Bearer realm="commontrip""#;
const WRONG: &str = r#"Bearer realm="commontrip", error="invalid_token""#;

/// The caller of a request.
#[derive(Clone, Debug)]
pub(super) struct Access {
    given: Given,
    client: Option<IpAddr>,
}

#[derive(Clone, Debug)]
enum Given {
    Nothing,
    Wrong,
    Token(Caller),
}

impl Access {
    pub(super) fn of(options: &Options, headers: &HeaderMap, client: Option<IpAddr>) -> Self {
        let given = headers.get(header::AUTHORIZATION);
        let given = given.and_then(|given| bearer(given.as_bytes()));
        let given = match given.map(|token| options.caller(token)) {
            None => Given::Nothing,
            Some(None) => Given::Wrong,
            Some(Some(caller)) => Given::Token(caller),
        };
        Self { given, client }
    }

    /// The holder of the token.
    pub(super) fn caller(&self) -> Result<&Caller, Problem> {
        let (words, challenge) = match &self.given {
            Given::Token(caller) => return Ok(caller),
            Given::Nothing => ("this needs a token: Authorization: Bearer <token>", REALM),
            Given::Wrong => ("the token is wrong", WRONG),
        };
        let problem = Problem::new(StatusCode::UNAUTHORIZED, words);
        Err(problem.with(header::WWW_AUTHENTICATE, challenge))
    }
}

impl<S: Sync> FromRequestParts<S> for Access {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let access = parts.extensions.get::<Self>().cloned();
        access.ok_or_else(|| {
            let words = "this request did not pass the access check";
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, words)
        })
    }
}

/// A caller who may command, and the operator for the commands.
pub(super) struct Operating {
    pub(super) operator: Operator,
    /// The name of the caller's token.
    name: Option<String>,
}

impl FromRequestParts<App> for Operating {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        if app.options.is_read_only() {
            let words = "this server has no token and so is read-only; start it with one to command (--tokens, \
                         --token-file or COMMONTRIP_ADMIN_TOKEN)";
            return Err(Problem::new(StatusCode::FORBIDDEN, words));
        }
        let access = Access::from_request_parts(parts, app).await?;
        let holder = match access.caller()? {
            Caller::Owner => None,
            Caller::Named(holder, _) => Some(holder),
        };
        if let Some(Holder { name, role, .. }) = holder
            && *role < Role::Command
        {
            let needed = Role::Command;
            let words =
                format!("the token of {name} has the role {role}; this needs the role {needed}");
            return Err(Problem::new(StatusCode::FORBIDDEN, words));
        }
        let name = holder.map(|holder| holder.name.to_string());
        tracing::info!(
            method = %parts.method,
            path = parts.uri.path(),
            by = name.as_deref().unwrap_or("the single token"),
            from = access.client.map(tracing::field::display),
            "a command"
        );
        let token = name.as_ref().map(|name| format!(" by the token of {name}"));
        let operator = match (access.client, token.unwrap_or_default()) {
            (Some(client), token) => app.operator.from(&format!("http from {client}{token}")),
            (None, token) if token.is_empty() => app.operator.clone(),
            (None, token) => app.operator.from(&format!("http{token}")),
        };
        Ok(Self { operator, name })
    }
}

impl Operating {
    /// The reason and author of a command. A named token is the author itself. With the single
    /// token, a caller may give an author; otherwise only the origin of the command identifies
    /// them.
    pub(super) fn note(&self, reason: String, author: String) -> Result<Note, Problem> {
        let with = Note::because(reason);
        match &self.name {
            Some(name) if author.is_empty() || author == *name => Ok(with.by(name)),
            Some(name) => Err(Problem::unfit(format!(
                "author is {author:?}, but the token is {name}'s; leave author out"
            ))),
            None if author.is_empty() => Ok(with),
            None => Ok(with.by(author)),
        }
    }
}

/// The token of `Bearer <token>`, with `Bearer` in any case.
fn bearer(header: &[u8]) -> Option<&[u8]> {
    let (word, token) = header.split_at_checked(7)?;
    let token = token.trim_ascii();
    (word.eq_ignore_ascii_case(b"bearer ") && !token.is_empty()).then_some(token)
}
