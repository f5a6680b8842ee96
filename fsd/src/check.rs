//! Whether the store holds what its rows say.

use fs_base::Result;
use fsd_api::{CheckEvent, CheckProgress, CheckSummary, Finding};

use crate::app::App;
use crate::image::{Config, load::digest_of};
use crate::volume;

/// Looks at every image and layer; with `deep` reads every byte. Each event is sent as it comes; a `send` that
/// answers `false` ends the check.
pub fn run(app: &App, deep: bool, send: &mut dyn FnMut(&CheckEvent) -> bool) -> Result<()> {
    let mut summary = CheckSummary::default();
    let (images, layers) = (app.db.images()?, app.db.layers()?);
    for image in &images {
        summary.images += 1;
        let found = digest_of(&image.config);
        let agrees = Config::parse(&image.config).is_ok_and(|config| config.rootfs.diff_ids == image.layers);
        if found != image.id || !agrees {
            summary.findings += 1;
            let finding = Finding {
                object: format!("image {}", image.id),
                kind: "corrupt".to_owned(),
                message: "its config in the database is not what its id and layers say".to_owned(),
                remedy: Some("remove the image and load or pull it again".to_owned()),
            };
            if !send(&CheckEvent::Finding(finding)) {
                return Ok(());
            }
        }
    }
    let total = if deep { layers.iter().map(|row| row.data_size).sum() } else { layers.len() as u64 };
    let mut done = 0;
    for row in &layers {
        let progress = CheckProgress { object: format!("layer {}", row.id), done, total };
        if !send(&CheckEvent::Progress(progress)) {
            return Ok(());
        }
        for finding in app.store.check(&row.id, deep)? {
            summary.findings += 1;
            let kind = if app.store.contains(&row.id) { "corrupt" } else { "missing" };
            let finding = Finding {
                object: format!("layer {}", finding.layer),
                kind: kind.to_owned(),
                message: finding.message,
                remedy: Some(finding.remedy),
            };
            if !send(&CheckEvent::Finding(finding)) {
                return Ok(());
            }
        }
        summary.layers += 1;
        summary.bytes += if deep { row.data_size } else { 0 };
        done += if deep { row.data_size } else { 1 };
    }
    let (volumes, findings) = volume::check(app)?;
    summary.volumes = volumes;
    for finding in findings {
        summary.findings += 1;
        if !send(&CheckEvent::Finding(finding)) {
            return Ok(());
        }
    }
    send(&CheckEvent::Summary(summary));
    Ok(())
}
