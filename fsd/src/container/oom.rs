//! Telling that the kernel has ended a process of a container for want of memory, when it does.

use std::sync::Arc;

use engine::shim::proto::{self, Answer, Reply};
use fs_base::ContainerId;
use tokio::io::AsyncReadExt;

use super::State;
use crate::app::App;

/// Hears of it from the container's shim until that hangs up. Of one that was `adopted`, what happened while no daemon was
/// there is told now, and what was told before is not told again. Must be called on a thread of the runtime's.
pub fn watch(app: &Arc<App>, id: &ContainerId, adopted: bool) {
    let (app, id) = (Arc::clone(app), id.clone());
    tokio::runtime::Handle::current().spawn(async move {
        let mut known = if adopted { told_before(&app, &id) } else { Some(0) };
        while let Some(kills) = next(&app, &id, known).await {
            if known.is_some() {
                let (app, id) = (Arc::clone(&app), id.clone());
                let told = tokio::task::spawn_blocking(move || tell(&app, &id, kills));
                let _ = told.await;
            }
            known = Some(kills);
        }
    });
}

/// How many an earlier daemon told of; `None` if it kept no number.
fn told_before(app: &App, id: &ContainerId) -> Option<u64> {
    let state = app.db.container(id).ok().flatten()?.state;
    let known = Some(state.oom_kills).filter(|kills| *kills > 0 || !state.oom_killed)?;
    app.containers.of(id).tell_oom(known);
    Some(known)
}

/// How many there are when there are more than are known of.
async fn next(app: &App, id: &ContainerId, known: Option<u64>) -> Option<u64> {
    let waiting = app.shim(id).begin_oom_wait(known).ok()?;
    waiting.set_nonblocking(true).ok()?;
    let mut stream = tokio::net::UnixStream::from_std(waiting).ok()?;
    let mut bytes = Vec::new();
    loop {
        match proto::decode::<Answer>(&bytes) {
            Ok(Some((Ok(Reply::OutOfMemory { kills }), _))) => return Some(kills),
            Ok(None) => {}
            Ok(Some(_)) | Err(_) => return None,
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

fn tell(app: &App, id: &ContainerId, kills: u64) {
    let live = app.containers.of(id);
    let _alone = live.alone();
    let Ok(Some(row)) = app.db.container(id) else { return };
    if !row.state.is_running() || !live.tell_oom(kills) {
        return;
    }
    let state = State { oom_killed: true, oom_kills: kills, ..row.state.clone() };
    if let Err(error) = app.db.set_passing_state(id, &state) {
        tracing::warn!(container = %id, %error, "want of memory could not be recorded");
    }
    app.events.container("oom", &row, &[]);
}
