"""The marks by which a layer's tar hides what lies below it (image-spec, layer.md, "Whiteouts")."""

WHITEOUT_PREFIX = ".wh."
OPAQUE_NAME = ".wh..wh..opq"
