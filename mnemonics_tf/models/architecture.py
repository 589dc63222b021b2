"""What it takes to build an incremental model again."""

import dataclasses

import keras

from mnemonics_tf.errors import UserError
from mnemonics_tf.models.conversion import right_in_second_order
from mnemonics_tf.models.naming import numbered_anew
from mnemonics_tf.models.own_backbone import OwnBackbone
from mnemonics_tf.models.resnet import BACKBONES, Backbone
from mnemonics_tf.registry import find


@dataclasses.dataclass(frozen=True)
class Architecture:
    """What it takes to build a model again.

    Attributes:
        backbone: a name in `BACKBONES`, or `package.module:Name` of a user's own.
        depth: number of layers.
        image_shape: `(h, w, c)`.
        classifier: a name in `CLASSIFIERS`.
        corrects_logits: whether a correction for each class follows the classifier (BiC).
        own: the backbone, where it is a model of the user's own; the depth is none then.
    """

    backbone: str
    depth: int
    image_shape: tuple[int, int, int]
    classifier: str
    corrects_logits: bool = False
    own: OwnBackbone | None = None

    def __post_init__(self):
        if self.own is None:
            self.family.check_depth(self.depth)

    def build_backbone(self, seed: int) -> keras.Model:
        """Returns a backbone with its first weights, and with the same names wherever it is built.

        Args:
            seed: of those that are drawn; a model of the user's own has its own.
        """
        with numbered_anew():
            if self.own is not None:
                return self.own.build()
            return right_in_second_order(self.family.build(self.image_shape, self.depth, seed))

    @property
    def family(self) -> Backbone:
        """The family of backbones, which may be a user's own.

        Raises:
            UserError: if there is none of that name.
        """
        found = find(BACKBONES, self.backbone, "backbone")
        if not isinstance(found, Backbone):
            raise UserError(
                f"--backbone={self.backbone} is {type(found).__name__}: expected a Backbone of "
                f"{Backbone.__module__}, which holds build and check_depth, or a model that was "
                "opened as `own`"
            )
        return found
