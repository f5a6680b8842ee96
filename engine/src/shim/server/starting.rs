//! Further processes on their way to become the user's program: the shim does not wait for them, as what they wait for
//! may be a volume that hangs, and the container's output goes on meanwhile.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use fs_base::sys::pid::Process;
use fs_base::{Error, IoContext, Result};

use super::Shim;
use super::session::{self, Ends, Kind, Rules, Session};
use crate::failure::Failure;
use crate::runtime::{self, Exec, External, Making, Starting, Stdio, Step, no_subreaper};
use crate::shim::proto::{self, Answer, ExecRequest, Reply, Status};

/// One of them, and who asked for it.
pub struct Beginning {
    request: ExecRequest,
    way: Way,
    ends: Ends,
    socket: UnixStream,
}

/// Who makes it.
enum Way {
    Builtin(Starting),
    /// Another runtime's program, which does all of it before it ends.
    External(Making),
}

impl AsFd for Beginning {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.way {
            Way::Builtin(starting) => starting.as_fd(),
            Way::External(making) => making.as_fd(),
        }
    }
}

impl Shim {
    /// Begins one, or says why not.
    pub fn begin_exec(&mut self, mut request: ExecRequest, mut socket: UnixStream) -> Result<()> {
        // The container's own, whatever its maker would choose today; with all rights too, as Docker has it.
        let main = self.spec.process().as_ref();
        let profile = main.and_then(|process| process.apparmor_profile().clone());
        let label = main.and_then(|process| process.selinux_label().clone());
        request.process.set_apparmor_profile(profile).set_selinux_label(label);
        let begun = match &self.external {
            Some(external) => self.ask_external(external, &request),
            None => self.fork_exec(&request),
        };
        match begun {
            Ok((way, ends)) => {
                self.beginning.push(Beginning { request, way, ends, socket });
                Ok(())
            }
            Err(error) => {
                let told = refuse(&mut socket, &error);
                if self.external.is_some() {
                    self.settle_children()?;
                }
                told
            }
        }
    }

    fn ask_external(&self, external: &External, request: &ExecRequest) -> Result<(Way, Ends)> {
        let (stdio, ends) = self.exec_streams(request)?;
        // A whole id would make the name of a socket too long.
        let name = format!("exec-{}", request.id.get(..16).unwrap_or(&request.id));
        Ok((Way::External(external.exec(&name, &request.process, self.ids.as_ref(), stdio)?), ends))
    }

    fn fork_exec(&self, request: &ExecRequest) -> Result<(Way, Ends)> {
        let (stdio, ends) = self.exec_streams(request)?;
        let filter = if request.unconfined { None } else { runtime::filter(&self.spec)? };
        let starting = runtime::exec(Exec {
            target: self.main.process().as_fd(),
            namespaces: self.namespaces,
            process: &request.process,
            filter: filter.as_ref(),
            stdio,
            cgroup: &self.cgroup,
            ids: self.ids.as_ref(),
        })?;
        Ok((Way::Builtin(starting), ends))
    }

    fn exec_streams(&self, request: &ExecRequest) -> Result<(Stdio, Ends)> {
        if self.status != Status::Running {
            return Err(Error::conflict("the container is not running"));
        }
        let kind = match (has_terminal(request), request.attach) {
            (true, _) => Kind::Terminal,
            (false, true) => Kind::Pipes { stdin: request.stdin },
            (false, false) => Kind::Null,
        };
        session::streams(kind)
    }

    /// Goes on with one that has said something.
    pub fn advance(&mut self, index: usize) -> Result<()> {
        let Beginning { request, way, ends, mut socket } = self.beginning.remove(index);
        let is_external = matches!(way, Way::External(_));
        let step = match way {
            Way::Builtin(starting) => starting.step(),
            Way::External(mut making) => making.finish().map(|(process, console)| Step::Running(process, console)),
        };
        let has_failed = step.is_err();
        let told = match step {
            Ok(Step::Pending(starting)) => {
                self.beginning.insert(index, Beginning { request, way: Way::Builtin(starting), ends, socket });
                Ok(())
            }
            Ok(Step::Running(process, console)) => self.runs(request, process, console, ends, socket),
            Err(error) => refuse(&mut socket, &error),
        };
        if is_external {
            self.has_failed_making |= has_failed;
            self.settle_children()?;
        }
        told
    }

    /// Where no other runtime makes anything any more: the children of others are none of the shim's again, and those that it
    /// got meanwhile are reaped when they end. The kernel keeps a container's first process until all others in it are reaped,
    /// by whoever their parent is, so what a runtime that failed has left in there is ended too. With the host's process ids
    /// nothing is: what the container's own processes have left may have become the shim's, and is the container's still.
    pub fn settle_children(&mut self) -> Result<()> {
        if !self.beginning.is_empty() {
            return Ok(());
        }
        no_subreaper()?;
        let is_left_over = std::mem::take(&mut self.has_failed_making) && self.has_own_pids;
        let sessions = self.execs.iter().map(|(_, session)| session.process()).chain([self.main.process()]);
        let known: Vec<i32> = sessions.chain(&self.orphans).map(Process::pid).collect();
        let new = runtime::children()?.into_iter().filter(|pid| !known.contains(pid));
        for orphan in new.filter_map(|pid| Process::open(pid).ok()) {
            if is_left_over {
                let _ = orphan.signal(rustix::process::Signal::KILL.as_raw());
            }
            self.orphans.push(orphan);
        }
        Ok(())
    }

    fn runs(
        &mut self,
        request: ExecRequest,
        process: Process,
        console: Option<OwnedFd>,
        ends: Ends,
        socket: UnixStream,
    ) -> Result<()> {
        let pid = process.pid();
        let session = Session::new(process, ends, console, Rules { input_once: true, ..Rules::default() })?;
        if let Some((rows, cols)) = request.size.filter(|_| has_terminal(&request)) {
            session.resize(rows, cols)?;
        }
        self.started(request, pid, session, socket)
    }

    fn started(&mut self, request: ExecRequest, pid: i32, mut session: Session, mut socket: UnixStream) -> Result<()> {
        let told = proto::write(&mut socket, &Answer::Ok(Reply::Started { pid, warnings: Vec::new() }));
        if request.attach && told.is_ok() {
            socket.set_nonblocking(true).at("configure", "connection")?;
            session.attach(OwnedFd::from(socket), request.stdin, true, true);
        }
        self.execs.push((request.id, session));
        told
    }
}

fn has_terminal(request: &ExecRequest) -> bool {
    request.process.terminal().unwrap_or(false)
}

fn refuse(socket: &mut UnixStream, error: &Error) -> Result<()> {
    let answer: Answer = Err(Failure::from(error));
    proto::write(socket, &answer)
}
