//! `gemctl events`: what happened, a line for each event, as text or as JSON.

use super::command::mismatch;
use super::{Exit, Failure, Form, SCHEMA, client, text};
use gemcast_proto::api::{Empty, Event, request, response};
use serde::Serialize;
use std::io::{self, Write};
use std::path::Path;

/// Prints the recent events and, when following, every new one.
pub fn show(form: Form, socket: &Path, follow: bool) -> Result<Exit, Failure> {
    if follow {
        client::follow(socket, request::Body::Follow(Empty {}), |answer| print(form, answer))?;
    } else {
        print(form, client::ask(socket, request::Body::Events(Empty {}))?)?;
    }
    Ok(Exit::Healthy)
}

/// Prints the events of an answer; `false` when nobody reads on.
fn print(form: Form, answer: response::Body) -> Result<bool, Failure> {
    #[derive(Serialize)]
    struct Line<'a> {
        schema: u32,
        #[serde(flatten)]
        event: &'a Event,
    }

    let response::Body::Events(answer) = answer else { return Err(mismatch()) };
    let mut lines = String::new();
    for event in &answer.events {
        match form {
            Form::Text => lines += &text::event(event),
            Form::Json => {
                let line = Line { schema: SCHEMA, event };
                lines += &serde_json::to_string(&line).expect("messages have string keys");
            }
        }
        lines.push('\n');
    }
    let mut out = io::stdout().lock();
    match out.write_all(lines.as_bytes()).and_then(|()| out.flush()) {
        // The reader has seen enough: `gemctl … | head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        written => {
            written.map_err(|error| Failure::new(Exit::Error, format!("cannot write: {error}")))?;
            Ok(true)
        }
    }
}
