# for kernels alone: what it has is in newfiles.pxd
