"""InsightFace's arcface_torch: this head in PartialFC's place, by their names for arguments.

In their train_v2.py: ``from annsoftmax_ref.training.integrations.with_arcface_torch import PartialFC_V2``, and as opt
``annsoftmax_ref.RowSGD`` with the arguments of torch.optim.SGD there (RowAdamW for AdamW). All else stays.
"""

import torch
from torch import distributed

from annsoftmax_ref import AllClasses, CosFace, InsightFaceArcFace, NearestClasses, SoftmaxHead


def PartialFC_V2(margin_loss, embedding_size, num_classes, sample_rate=1.0, fp16=False):  # noqa: N802, their name
    """margin_loss: their CombinedMarginLoss. Its filter between classes is not here, nor m1 with an m3 of 0."""
    if margin_loss.interclass_filtering_threshold > 0 or (margin_loss.m1 != 1.0 and margin_loss.m3 <= 0):
        raise ValueError("margin_loss has an interclass_filtering_threshold or an m1; it should have m2 or m3 alone")
    plain = margin_loss.m1 == 1.0 and margin_loss.m3 == 0.0  # the branches of CombinedMarginLoss, in its order
    objective = InsightFaceArcFace(margin_loss.s, margin_loss.m2) if plain else CosFace(margin_loss.s, margin_loss.m3)
    selector = NearestClasses(sample_rate) if sample_rate < 1 else AllClasses()
    head = HeadOfFaces(num_classes, embedding_size, selector, objective, process_group=distributed.group.WORLD)
    head.fp16 = fp16
    return head


class HeadOfFaces(SoftmaxHead):
    def forward(self, local_embeddings, local_labels):
        with torch.autocast(local_embeddings.device.type, torch.float16, enabled=self.fp16):
            return super().forward(local_embeddings, local_labels.flatten().long())
