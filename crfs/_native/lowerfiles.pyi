# for kernels alone: what it has is in lowerfiles.pxd
