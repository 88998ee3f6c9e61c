//! `commontrip man`: the manual page, generated from the help texts.
//!
//! Owns the order of the page: options that all commands share appear once, after the commands.

use std::io;

use clap_mangen::Man;

use crate::{connect::ENVIRONMENT, help, out::STATUS};

/// The headings of options that many commands share.
const SHARED: [&str; 2] = ["Connection", "Output"];

/// Renders the page as roff.
pub fn page() -> io::Result<Vec<u8>> {
    let mut command = help::command();
    command.build();
    let man = Man::new(command.clone());
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    let mut text = String::from_utf8_lossy(&page).into_owned();
    text += &examples("commontrip");
    for sub in command.get_subcommands() {
        section(&mut text, sub, &format!("commontrip {}", sub.get_name()))?;
    }
    for head in SHARED {
        let list = command.find_subcommand("list").cloned().unwrap_or_default();
        let of_head = list.mut_args(|arg| {
            let hidden = arg.get_help_heading() != Some(head);
            arg.hide(hidden)
        });
        text += &format!(".SH {} OPTIONS\n", head.to_uppercase());
        text += &options(of_head)?;
    }
    text += &format!(".SH ENVIRONMENT\n{}\n", escaped(ENVIRONMENT));
    text += &format!(".SH EXIT STATUS\n{}\n", escaped(STATUS));
    Ok(text.into_bytes())
}

/// Renders one command, then its subcommands.
fn section(text: &mut String, command: &clap::Command, path: &str) -> io::Result<()> {
    if command.is_hide_set() || command.get_name() == "help" {
        return Ok(());
    }
    let about = command.get_about().map(ToString::to_string);
    *text += &format!(".SH {}\n", escaped(path).to_uppercase());
    *text += &format!("{}.\n", escaped(&about.unwrap_or_default()));
    let own = command.clone().mut_args(|arg| {
        let is_shared = arg.get_help_heading().is_some_and(|h| SHARED.contains(&h));
        match is_shared || arg.get_id() == "help" {
            true => arg.hide(true),
            false => arg,
        }
    });
    let mut usage = Vec::new();
    Man::new(own.clone()).render_synopsis_section(&mut usage)?;
    *text += &below(&usage);
    *text += &options(own)?;
    *text += &examples(path).replace(".SH ", ".SS ");
    for sub in command.get_subcommands() {
        section(text, sub, &format!("{path} {}", sub.get_name()))?;
    }
    Ok(())
}

fn options(command: clap::Command) -> io::Result<String> {
    let mut options = Vec::new();
    Man::new(command).render_options_section(&mut options)?;
    Ok(below(&options))
}

/// Turns a rendered section into a subsection, without the preamble of a page.
fn below(roff: &[u8]) -> String {
    let text = String::from_utf8_lossy(roff);
    text.replace("\n.SH ", "\n.SS ")
        .replace(".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n", "")
}

fn examples(path: &str) -> String {
    let examples = help::examples(path);
    if examples.is_empty() {
        return String::new();
    }
    let lines = examples
        .iter()
        .map(|(typed, what)| format!(".TP\n.B {}\n{}\n", escaped(typed), escaped(what)));
    format!(".SH EXAMPLES\n{}", lines.collect::<String>())
}

/// Escapes text for roff.
fn escaped(text: &str) -> String {
    let text = text
        .replace('\\', "\\e")
        .replace('-', "\\-")
        .replace('\'', "\\(aq");
    let lines = text.lines().map(|line| match line.starts_with('.') {
        true => format!("\\&{line}"),
        false => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}
