//! The connection to gemcastd: one question, one answer.

use super::{Exit, Failure};
use gemcast_proto::api::{self, error::Code, request, response};
use gemcast_proto::message::{self, FrameReader};
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// A daemon that does not answer within this is taken for stuck.
const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// Asks the daemon at a socket.
pub fn ask(socket: &Path, request: request::Body) -> Result<response::Body, Failure> {
    let mut connection = Connection::open(socket, request).map_err(|error| unreachable(socket, &error))?;
    body(connection.receive().map_err(|error| unreachable(socket, &error))?)
}

/// Asks the daemon at a socket, and takes its answers until `each` wants no more or the daemon ends.
pub fn follow(
    socket: &Path,
    request: request::Body,
    mut each: impl FnMut(response::Body) -> Result<bool, Failure>,
) -> Result<(), Failure> {
    let mut connection = Connection::open(socket, request).map_err(|error| unreachable(socket, &error))?;
    let first = connection.receive().map_err(|error| unreachable(socket, &error))?;
    let mut more = each(body(first)?)?;
    // From here on silence means that nothing happens.
    connection.stream.set_read_timeout(None).map_err(|error| unreachable(socket, &error))?;
    while more {
        let answer = connection.receive().map_err(|_| {
            let message = format!("gemcastd at {} ended; run the command again once it is back", socket.display());
            Failure::new(Exit::Unreachable, message)
        })?;
        more = each(body(answer)?)?;
    }
    Ok(())
}

/// What an answer says, or what it refuses.
fn body(answer: api::Response) -> Result<response::Body, Failure> {
    match answer.body {
        Some(response::Body::Error(error)) => Err(Failure::new(
            match error.code() {
                Code::NotPermitted => Exit::NotPermitted,
                Code::Failed | Code::NotFound | Code::Unavailable => Exit::Error,
            },
            error.message,
        )),
        Some(answer) => Ok(answer),
        None => {
            let message = "the daemon's answer is not known to this version; use gemctl and gemcastd of one version";
            Err(Failure::new(Exit::Error, message))
        }
    }
}

/// A connection with its one request on the way.
struct Connection {
    stream: UnixStream,
    reader: FrameReader,
    written: io::Result<()>,
}

impl Connection {
    fn open(socket: &Path, request: request::Body) -> io::Result<Self> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(ANSWER_WAIT))?;
        stream.set_write_timeout(Some(ANSWER_WAIT))?;
        let mut bytes = Vec::new();
        message::encode(&api::Request { body: Some(request) }, &mut bytes);
        // A daemon that refuses this client says so and closes without reading.
        let written = stream.write_all(&bytes);
        Ok(Self { stream, reader: FrameReader::default(), written })
    }

    fn receive(&mut self) -> io::Result<api::Response> {
        let mut chunk = [0; 1 << 16];
        loop {
            let invalid = |error| io::Error::new(io::ErrorKind::InvalidData, error);
            if let Some(answer) = self.reader.message().map_err(invalid)? {
                return Ok(answer);
            }
            match self.stream.read(&mut chunk) {
                Ok(0) => {
                    std::mem::replace(&mut self.written, Ok(()))?;
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Ok(length) => self.reader.push(&chunk[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

fn unreachable(socket: &Path, error: &io::Error) -> Failure {
    let place = socket.display();
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            let message = format!("not permitted to use {place}; run gemctl as root or as gemcastd's user");
            Failure::new(Exit::NotPermitted, message)
        }
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            let message = format!(
                "gemcastd is not reachable at {place}: {error}; start gemcastd, or name its socket with --socket, or \
                 with --run-dir and --instance"
            );
            Failure::new(Exit::Unreachable, message)
        }
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
            let message = format!("gemcastd at {place} does not answer within {ANSWER_WAIT:?}; see its log");
            Failure::new(Exit::Unreachable, message)
        }
        io::ErrorKind::UnexpectedEof | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
            let message = format!("gemcastd at {place} hung up without an answer; see its log");
            Failure::new(Exit::Unreachable, message)
        }
        _ => Failure::new(Exit::Unreachable, format!("gemcastd at {place}: {error}")),
    }
}
