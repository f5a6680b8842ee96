//! Registries: Debian's `docker-registry` on loopback, and a small one of our own that misbehaves on demand.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::images::{config, digest, gzip};

/// `docker-registry` with a store of its own; ended when dropped.
#[derive(Debug)]
pub struct Registry {
    _dir: tempfile::TempDir,
    child: Child,
    /// `127.0.0.1:PORT`.
    pub address: String,
}

impl Registry {
    /// Starts one on a port of its own.
    pub fn start() -> Registry {
        let dir = tempfile::tempdir().unwrap();
        let address = format!("127.0.0.1:{}", crate::networks::free_port());
        let settings = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
            dir.path().display()
        );
        let file = dir.path().join("config.yml");
        std::fs::write(&file, settings).unwrap();
        let child =
            Command::new("docker-registry").arg("serve").arg(&file).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let end = Instant::now() + crate::PATIENCE;
        while TcpStream::connect(&address).is_err() {
            assert!(Instant::now() < end, "docker-registry does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        Registry { _dir: dir, child, address }
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What goes wrong at our own registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// A token is wanted.
    Token,
    /// A token is wanted, and only alice, whose password is `secret`, gets one.
    Login,
    /// Each answer with a layer breaks off after 40,000 bytes; ranges are honoured.
    Cut,
    /// The same, and ranges are ignored.
    CutWithoutRanges,
    /// One byte of each layer is wrong.
    WrongBytes,
    /// A layer's connection is closed without an answer.
    HangUp,
    /// The last layer may not be handed on.
    Foreign,
}

/// A registry with one image, `app:1`, on a thread of its own.
#[derive(Debug)]
pub struct Faulty {
    /// `127.0.0.1:PORT`.
    pub address: String,
    /// Requests in the order they came.
    pub requests: Arc<Mutex<Vec<String>>>,
}

impl Faulty {
    /// Serves an image of these layers until the test process ends.
    pub fn start(layers: &[&[u8]], fault: Fault) -> Faulty {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mut blobs: HashMap<String, Vec<u8>> =
            layers.iter().map(|layer| gzip(layer)).map(|blob| (digest(&blob), blob)).collect();
        let descriptor = |media: &str, bytes: &[u8]| json!({"mediaType": format!("application/vnd.oci.image.{media}"), "digest": digest(bytes), "size": bytes.len()});
        let config = config(layers);
        let media_type = |number: usize| match fault {
            Fault::Foreign if number + 1 == layers.len() => "layer.nondistributable.v1.tar+gzip",
            _ => "layer.v1.tar+gzip",
        };
        let described = layers.iter().enumerate().map(|(number, layer)| descriptor(media_type(number), &gzip(layer)));
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": descriptor("config.v1+json", &config),
            "layers": described.collect::<Vec<_>>(),
        });
        let manifest = serde_json::to_vec(&manifest).unwrap();
        blobs.insert(digest(&config), config.clone());
        let server = Arc::new(Server {
            blobs,
            manifest,
            config: digest(&config),
            fault,
            address: address.clone(),
            requests: Arc::default(),
        });
        let requests = Arc::clone(&server.requests);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = Arc::clone(&server);
                std::thread::spawn(move || server.answer(stream));
            }
        });
        Faulty { address, requests }
    }
}

#[derive(Debug)]
struct Server {
    blobs: HashMap<String, Vec<u8>>,
    manifest: Vec<u8>,
    config: String,
    fault: Fault,
    address: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Server {
    /// One request a connection. A client that goes away is no error here.
    fn answer(&self, mut stream: TcpStream) {
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let Some(Ok(request)) = lines.next() else { return };
        let mut headers = HashMap::new();
        while let Some(Ok(line)) = lines.next().filter(|line| line.as_ref().is_ok_and(|line| !line.is_empty())) {
            let (name, value) = line.split_once(": ").unwrap();
            headers.insert(name.to_lowercase(), value.to_owned());
        }
        self.requests.lock().unwrap().push(format!("{request} {}", headers.get("range").cloned().unwrap_or_default()));
        let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
        let _ = self.respond(&mut stream, &path, &headers);
    }

    fn respond(&self, stream: &mut TcpStream, path: &str, headers: &HashMap<String, String>) -> std::io::Result<()> {
        if path.starts_with("/token?") {
            assert!(path.contains("service=test") && path.contains("scope=repository%3Aapp%3Apull"), "{path}");
            // alice:secret, as base64.
            let is_alice = headers.get("authorization").map(String::as_str) == Some("Basic YWxpY2U6c2VjcmV0");
            if self.fault == Fault::Login && !is_alice {
                return send(stream, "401 Unauthorized", "", b"{}");
            }
            return send(stream, "200 OK", "", br#"{"token":"sesame"}"#);
        }
        if matches!(self.fault, Fault::Token | Fault::Login)
            && headers.get("authorization").map(String::as_str) != Some("Bearer sesame")
        {
            let challenge = format!(
                "WWW-Authenticate: Bearer realm=\"http://{}/token\",service=\"test\",scope=\"repository:app:pull\"\r\n",
                self.address
            );
            return send(stream, "401 Unauthorized", &challenge, b"{}");
        }
        if path == "/v2/app/manifests/1" {
            return send(stream, "200 OK", "", &self.manifest);
        }
        let Some((name, blob)) = path.strip_prefix("/v2/app/blobs/").and_then(|name| self.blobs.get_key_value(name)) else {
            return send(
                stream,
                "404 Not Found",
                "",
                br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#,
            );
        };
        if *name == self.config {
            return send(stream, "200 OK", "", blob);
        }
        let range = headers.get("range").filter(|_| self.fault != Fault::CutWithoutRanges);
        let start: usize = range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()).unwrap_or(0);
        let mut rest = blob[start..].to_vec();
        match self.fault {
            Fault::HangUp => return Ok(()),
            Fault::WrongBytes => rest[start + 30] ^= 1,
            _ => {}
        }
        let status = if start > 0 { "206 Partial Content" } else { "200 OK" };
        write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", rest.len())?;
        // Without ranges each answer has to go further than the one before.
        let count = self.requests.lock().unwrap().len();
        let cut = match self.fault {
            Fault::Cut => rest.len().min(40_000),
            Fault::CutWithoutRanges => rest.len().min(20_000 * count),
            _ => rest.len(),
        };
        stream.write_all(&rest[..cut])
    }
}

fn send(stream: &mut TcpStream, status: &str, headers: &str, body: &[u8]) -> std::io::Result<()> {
    write!(stream, "HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
    stream.write_all(body)
}
