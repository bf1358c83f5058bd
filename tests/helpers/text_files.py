"""IMDb as files, a few reviews."""

import io
import tarfile

REVIEWS = {
    **{f"aclImdb/train/neg/{i}_2.txt": f"dull {i}".encode() for i in range(10)},
    **{f"aclImdb/train/pos/{i}_9.txt": f"caf\u00e9, fine {i}".encode() for i in range(10)},
    "aclImdb/test/neg/0_1.txt": b"No.",
    "aclImdb/test/neg/10_1.txt": b"\x00 never\n",
    "aclImdb/test/neg/2_1.txt": b"no",
    "aclImdb/test/pos/0_10.txt": b"yes",
}
IGNORED = {
    "aclImdb/README": b"\xff",
    "aclImdb/train/unsup/0_0.txt": b"\xff",
    "aclImdb/train/labeledBow.feat": b"9 0:9",
    "aclImdb/train/pos/._0_9.txt": b"\xff",
}


def write_archive(path, files, extra=()):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        for member in extra:
            tar.addfile(member)
    return path
