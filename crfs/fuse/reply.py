"""What llfuse wants to be answered with, made from the index. Called with llfuse's lock held."""

import llfuse

from crfs._native.index import Tree

# the tree never changes, so the kernel may keep what it knows for a day
FOREVER_SECONDS = 86400.0
BLOCK = 4096
NAME_MAX = 255


def entry(tree: Tree, inode: int) -> llfuse.EntryAttributes:
    """Attributes of an inode, as lookup and getattr answer them."""
    mode, nlink, uid, gid, rdev, size, mtime_ns = tree.attributes(inode)
    made = llfuse.EntryAttributes()
    made.st_ino = inode
    made.generation = 0
    made.entry_timeout = FOREVER_SECONDS
    made.attr_timeout = FOREVER_SECONDS
    made.st_mode = mode
    made.st_nlink = nlink
    made.st_uid = uid
    made.st_gid = gid
    made.st_rdev = rdev
    made.st_size = size
    made.st_blksize = BLOCK
    made.st_blocks = (size + 511) // 512
    made.st_atime_ns = mtime_ns
    made.st_mtime_ns = mtime_ns
    made.st_ctime_ns = mtime_ns
    return made


def no_entry() -> llfuse.EntryAttributes:
    """The answer that lets the kernel remember that a name does not exist."""
    made = llfuse.EntryAttributes()
    made.st_ino = 0
    made.entry_timeout = FOREVER_SECONDS
    return made


def statfs(tree: Tree) -> llfuse.StatvfsData:
    """A file system that is full, of the image's size."""
    made = llfuse.StatvfsData()
    made.f_bsize = BLOCK
    made.f_frsize = BLOCK
    made.f_blocks = (tree.file_bytes + BLOCK - 1) // BLOCK
    made.f_bfree = 0
    made.f_bavail = 0
    made.f_files = tree.inodes
    made.f_ffree = 0
    made.f_favail = 0
    made.f_namemax = NAME_MAX
    return made
