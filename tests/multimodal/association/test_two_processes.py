"""Alignment in two processes: one loss of all rows, and to each process the parts of its own."""

import torch

from equipoise.multimodal import IdentityReweighter, MultimodalAlignmentLoss, TwoLevelAlignmentLoss
from two_processes import in_two_processes, needs_two_processes


def _batch():
    generator = torch.Generator().manual_seed(0)
    face, voice = (torch.randn(7, 3, generator=generator) for _ in range(2))
    return face, voice, torch.tensor([0, 1, 2, 3, 4, 0, 1])


def _work(rank):
    mine = slice(0, 4) if rank == 0 else slice(4, None)
    face, voice, identity = (each[mine] for each in _batch())
    parts = TwoLevelAlignmentLoss(6, 3, gather=True)(face, voice, identity)
    many = MultimodalAlignmentLoss(6, 3, gather=True)([face, voice], identity)
    reweighter = IdentityReweighter(6, step_fraction=0.2, gather=True)
    reweighter.observe(identity, parts["face_ce"] + parts["voice_ce"])
    return {
        "loss": parts["loss"].detach(),
        "local": parts["local"],
        "face_ce": parts["face_ce"],
        "ce": many["ce"],
        "many local": many["local"],
        "running": reweighter.loss_ema,
    }


@needs_two_processes
def test_each_process_has_the_parts_of_its_own_rows_for_the_reweighter():
    first, second = in_two_processes(_work)
    face, voice, identity = _batch()
    whole = TwoLevelAlignmentLoss(6, 3)(face, voice, identity)
    reweighter = IdentityReweighter(6, step_fraction=0.2)
    reweighter.observe(identity, whole["face_ce"] + whole["voice_ce"])
    for name in ("local", "face_ce"):
        torch.testing.assert_close(torch.cat([first[name], second[name]]), whole[name])
    torch.testing.assert_close(torch.cat([first["ce"], second["ce"]], 1)[0], whole["face_ce"])
    torch.testing.assert_close(torch.cat([first["many local"], second["many local"]]), whole["local"])
    for each in (first, second):
        torch.testing.assert_close(each["loss"], whole["loss"].detach())
        torch.testing.assert_close(each["running"], reweighter.loss_ema)
