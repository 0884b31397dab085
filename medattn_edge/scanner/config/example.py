"""The configuration that `node init` writes: every section and key, with what it is for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from medattn_edge.scanner.config.sections import Channel
from medattn_edge.scanner.config.toml import as_toml

_TEMPLATE: Final = """\
# The configuration of a medattn-edge node. Keys behind # show their defaults; where an example stands, it says so.
# Paths start at the folder of this file; ~ is your home. After a change: medattn-edge node --config FILE --dump-config
# tells what is wrong, systemctl reload (or kill -HUP PID) takes it over. root, log_file and the address of [status]
# need a restart.

[node]
root = {root}                    # everything the node keeps: objects, results, quarantine, database, site key
# name = "medattn-edge"                 # shown on the status page
# log_file = "node.log"                 # example: JSON lines, rotated; without it they go to stderr

# DICOM files that are put into a folder. Remove the section when scanners and archives send by C-STORE.
[watch]
folder = {watch}
# poll_s = 2.0                          # between looks
# settle_s = 2.0                        # a file that has not changed for so long is whole
# after = "keep"                        # or "remove": the file, once it is safe in the root
# conflict = "new_version"              # or "refuse", as below; a file that is refused stays

# DICOM objects that are sent to this host. Without the section nothing listens.
# [receive]
# calling_ae = ["CT1"]                  # example: titles that may send, at least one; "*" is everybody
# ae_title = "MEDATTN"                  # what callers must call this node
# host = "127.0.0.1"                    # the address to listen on; 0.0.0.0 for every network of this host
# port = 11112                          # 0 takes any free one, and the log says which
# plain = true                          # example: the listener without TLS; else it is open unless there is a [tls]
# addresses = ["127.0.0.0/8", "::1/128"]  # networks that may connect
# sop_classes = ["CTImageStorage", "1.2.840.10008.5.1.4.1.1.4"]  # example; without it all of CT, MR and PET
# max_associations = 8                  # open at once
# max_per_address = 6                   # of those, of one address
# max_object_mb = 2048                  # of one object
# conflict = "new_version"              # an object that comes again with other contents is a correction: the series is
#                                       # segmented again; or "refuse": a failure, and the sender keeps it

# A listener with TLS 1.2 or newer, for the same callers as [receive], which then has no plain one unless plain = true.
# [tls]
# certificate = "node.crt"              # example: PEM
# key = "node.key"                      # example: PEM, without a password
# clients_ca = "clients-ca.crt"         # example: PEM: who signs the certificates of callers
# mutual = true                         # false: callers need no certificate
# port = 2762

# Whose signatures count; without the section nobody's are asked for. A release that is older than one of its name that
# this node has served is refused in any case.
# [releases]
# trusted_keys = "trusted.keys"         # example: public keys as `release keygen` writes them, one behind the other
# require_signed = true                 # every model is a release that one of them signed; false: what is signed must
#                                       # be signed by one of them, the rest is taken

# Which artifact segments which series: the first model whose four patterns fit takes it.
[[model]]
name = {name}
artifact = {artifact}
# sha256 = ""                           # that it must have; empty: the one that it has when the node starts or reloads
# release_sha256 = ""                   # the same of release.json, where the artifact is a release: a folder, a .zip or
#                                       # RELEASE#ARTIFACT
# device = "auto"                       # the GPU for engines, which run there alone, else the CPU; or "cpu", "cuda:0";
#                                       # each device has a worker process of its own
# modality = ""                         # "CT", "MR" or "PT"; empty: any of them
# body_part = "*"                       # patterns with * and ?, in any case: of the body part examined,
# description = "*"                     # of the description of the series,
# calling_ae = "*"                      # and of the sender's title, which is empty for a watched folder
# kind = "binary"                       # of the segmentation; or "labelmap"
# key_slices = 0                        # so many pictures go with it, for viewers that show no segmentations
# rtstruct = false                      # its contours go with it, for planning systems
# sr = false                            # its volumes go with it, as a measurement report (needs kind = "binary")
# probabilities = false                 # a Parametric Map of each label goes with it: 4 bytes for each of its voxels
# overlap = 0.5                         # of the windows, for example; without it the artifact's own, which is tuned
# skip_air = false                      # leave out windows outside the body
# any_modality = false                  # segment series of another modality than the artifact was trained on, too
# threads = 0                           # of the CPU; 0 takes one for each core that the node may use
# destinations = []                     # names of those that get its results; empty: all there are
# volume = 0                            # of a series of several volumes (times, echoes), the one to take, from 1, as
#                                       # `infer --volume`; 0: such a series is refused (several_volumes)
# channels = []                         # of a network of several: which series of a study each is, in its order:
#                                       #   [{{ name = "t1", description = "*T1*" }},
#                                       #    {{ name = "flair", description = "*FLAIR*", modality = "MR" }}]
#                                       # also with body_part and volume; the job starts when all of them are complete
# resample_to_first = false             # a channel on another grid is resampled to the first's instead of refused

# Where results go. A folder needs no archive.
[[destination]]
name = "folder"
folder = {results}

# An archive, by C-STORE. All keys that are shown are examples, but the last.
# [[destination]]
# name = "pacs"
# host = "pacs.example"
# port = 104
# ae_title = "ARCHIVE"                  # what the archive is called
# calling_ae_title = "MEDATTN"          # what the node calls itself; without it ae_title of [receive]
# tls = true                            # TLS 1.2 or newer; without it the connection is in the clear
# ca = "archive-ca.crt"                 # PEM: who signs the archive's certificate; without it the system's authorities
# certificate = "node.crt"              # PEM: what the node shows
# key = "node.key"                      # PEM, without a password
# timeout_s = 30.0                      # to connect, and for each answer

# An archive, by DICOMweb (STOW-RS). All keys that are shown are examples, but the last; ca, certificate, key as above.
# [[destination]]
# name = "web"
# dicomweb = "https://pacs.example/dicom-web" # its address; http:// is in the clear
# credentials = "pacs.credentials"      # a file with one line, bearer TOKEN or basic USER:PASSWORD, for the node only
# timeout_s = 30.0                      # to connect, and for each answer

# Storage commitment: senders ask whether they may delete what they have sent. The node is no archive, so it is off;
# where it is on, what the node has promised stays for keep_days, delivered or not, however full the disk is.
# [storage_commitment]
# enabled = false
# keep_days = 30.0                      # of promised objects, from the last promise on
# max_waiting = 1000                    # requests whose answers wait; more are refused
# max_instances = 10000                 # of one request

# Who may ask for it, beside calling_ae of [receive], and where the answer goes.
# [[commitment_peer]]
# ae_title = "CT1"                      # example: as it calls and is called
# host = "ct1.example"                  # example
# port = 104                            # example
# tls = true                            # example: TLS 1.2 or newer; without it the connection is in the clear
# ca = "ct1-ca.crt"                     # example: PEM: who signs the peer's certificate; else the system's authorities
# certificate = "node.crt"              # example: PEM: what the node shows
# key = "node.key"                      # example: PEM, without a password
# timeout_s = 30.0                      # to connect, and for each answer

[limits]
# quiet_s = 60.0                        # without a new object until a series is complete
# max_wait_s = 900.0                    # the same, while an association that sent some of it stays open
# max_study_wait_s = 3600.0             # for the other channels of a study, before what is missing is told
# retries = 1                           # of a series whose worker was lost
# interruptions = 4                     # of a series by restarts of the node, before it is taken for the cause
# max_instances = 10000                 # of one series
# max_bytes = 8000000000                # of one series
# max_replacements = 4                  # of one object by other contents; more are refused
# retry_initial_s = 5.0                 # before a delivery is tried again; doubled each time
# retry_max_s = 900.0                   # up to this
# delivery_attempts = 500               # before a delivery is dead: after about four days
# seed = 0                              # of the chance in the pauses
# max_used_fraction = 0.75              # nothing is taken above this share of the disk, once
# min_free_gb = 10.0                    # fewer are free than these as well
# quota_gb = 100.0                      # example: of the root; without it the whole disk
# job_timeout_s = 900.0                 # of one series; then its worker hangs
# start_timeout_s = 300.0               # of a worker
# memory_mb = 0                         # resident memory of a worker; 0: no limit
# drain_s = 60.0                        # to finish after SIGTERM
# keep_days = 14.0                      # of delivered series
# quarantine_keep_days = 30.0           # of single objects in quarantine

[status]
# enabled = true
# host = "127.0.0.1"                    # this machine only
# port = 8742                           # Orthanc, which may run beside it, has 8042
# thumbnails = true                     # pictures of the last results on the page
"""


_NO_CHANNELS: Final = next(line for line in _TEMPLATE.splitlines(keepends=True) if line.startswith("# channels = "))


def example(root: Path, watch: Path, artifact: Path, results: Path, channels: Sequence[str] = ()) -> str:
    """TOML for a node that takes files from a folder, segments them with one artifact, and writes to a folder.

    Args:
        root: of the node.
        watch: the folder that files are taken from.
        artifact: that segments.
        results: the folder that segmentations go to.
        channels: of a network of several, as `channel_names` gives them: each gets a pattern that has its name in it,
            for somebody to correct.

    Raises:
        UsageError: for a path that is not UTF-8.
    """
    name = "".join(letter if letter.isalnum() and letter.isascii() else "-" for letter in artifact.stem.lower())
    values = {"root": root, "watch": watch, "artifact": artifact, "results": results}
    written = {key: as_toml(str(value)) for key, value in values.items()}
    text = _TEMPLATE.format(name=as_toml(name.strip("-")[:32] or "model"), **written)
    if len(channels) < 2:
        return text
    patterns = (Channel(one, f"*{one}*") for one in channels)
    lines = (f"  {{ name = {as_toml(one.name)}, description = {as_toml(one.description)} }},\n" for one in patterns)
    return text.replace(_NO_CHANNELS, f"{_NO_CHANNELS.removeprefix('# ').replace('[] ', '[  ')}{''.join(lines)}]\n")
