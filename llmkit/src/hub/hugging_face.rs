//! Hugging Face: addresses, tokens, and the cache its own tools keep.

use std::path::PathBuf;

use super::exchange::Request;

/// How to reach Hugging Face, and where its tools keep what they fetched.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    /// `HF_ENDPOINT`, for mirrors.
    pub endpoint: String,
    /// `HF_TOKEN`, or what `hf auth login` stored.
    pub token: Option<String>,
    /// `HF_HUB_CACHE`, else `HF_HOME/hub`, else `huggingface/hub` in the user's cache directory.
    pub cache: Option<PathBuf>,
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name)
        .ok()
        .map(|value| value.trim().to_owned())
        .filter(|value| !value.is_empty())
}

impl Settings {
    pub(super) fn from_env() -> Settings {
        let home = variable("HF_HOME")
            .map(PathBuf::from)
            .or_else(|| Some(dirs::cache_dir()?.join("huggingface")));
        let token_file = variable("HF_TOKEN_PATH")
            .map(PathBuf::from)
            .or_else(|| Some(home.as_ref()?.join("token")));
        Settings {
            endpoint: variable("HF_ENDPOINT")
                .unwrap_or_else(|| "https://huggingface.co".to_owned()),
            token: variable("HF_TOKEN")
                .or_else(|| variable("HUGGING_FACE_HUB_TOKEN"))
                .or_else(|| {
                    let text = std::fs::read_to_string(token_file?).ok()?;
                    Some(text.trim().to_owned()).filter(|token| !token.is_empty())
                }),
            cache: variable("HF_HUB_CACHE")
                .map(PathBuf::from)
                .or_else(|| Some(home?.join("hub"))),
        }
    }

    /// `{endpoint}/[datasets/]{repository}/resolve/{revision}/{path}`.
    pub(super) fn request(
        &self,
        repository: &str,
        is_dataset: bool,
        revision: &str,
        path: &str,
    ) -> Request {
        let endpoint = self.endpoint.trim_end_matches('/');
        let kind = if is_dataset { "datasets/" } else { "" };
        Request {
            url: format!("{endpoint}/{kind}{repository}/resolve/{revision}/{path}"),
            authorization: self.token.as_ref().map(|token| format!("Bearer {token}")),
            ..Request::default()
        }
    }

    /// The directory in which Hugging Face's tools keep this revision, if they have it.
    pub(super) fn snapshot(
        &self,
        repository: &str,
        is_dataset: bool,
        revision: &str,
    ) -> Option<PathBuf> {
        let kind = if is_dataset { "datasets" } else { "models" };
        let folder = self
            .cache
            .as_ref()?
            .join(format!("{kind}--{}", repository.replace('/', "--")));
        // A branch is a file that names the commit; a commit names itself.
        let commit = std::fs::read_to_string(folder.join("refs").join(revision))
            .map_or_else(|_| revision.to_owned(), |text| text.trim().to_owned());
        Some(folder.join("snapshots").join(commit)).filter(|path| path.is_dir())
    }
}
