"""An archive of a volume in object storage: docs/archive-format.md is the specification.

    names, manifest     what the objects are called; what a manifest says, and its text
    objects             what a store has to do; folder, remote: the stores there are; places: from a URL to its store
    conditional         what a request did whose answer is in doubt; the boundary of deletion; the probe
    commits             the chain of manifests: epochs, and who may add to it; deletion: what is not needed any more
    outline, missing    a segment without its data; what of an archive is not here, fetched when it is read
    direct              the volume in an archive, open where it lies
    retention           what an archive's policy gives up
    source              the volume, as an archive needs it
    writer              brings an archive up to date; follow: again and again, of a volume that is served or not
    reader              what an archive holds, whether it is sound, and back into a folder
"""
