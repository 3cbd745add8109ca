"""The nodes: schemas and thin execute methods, one file per step of the graph."""

from comfy_api.latest import ComfyExtension, io

from ..dreamo_core.host.folders import register_model_folder
from ..dreamo_core.host.official import register_replacements

# Before the loader's schema asks for the files in it.
register_model_folder()

from ..minidreamo.host.nodes import DreamODemoControlNet, DreamODemoModels, DreamODemoUSO, DreamOExamplePicture  # noqa: E402
from ..minidreamo.host.realcustom_nodes import RealCustomDemoModels  # noqa: E402
from .apply import DreamOApply  # noqa: E402
from .guidance import DreamOTrueCFGRange  # noqa: E402
from .load_picture import DreamOLoadPicture  # noqa: E402
from .loader import DreamOLoader, DreamOLora  # noqa: E402
from .official import DreamOOfficialApply, DreamOOfficialProcessor, DreamOOfficialReference  # noqa: E402
from .realcustom_apply import RealCustomApply  # noqa: E402
from .realcustom_loader import RealCustomLoader  # noqa: E402
from .realcustom_subject import RealCustomSubject  # noqa: E402
from .reference import DreamOReference  # noqa: E402
from .reference_control import DreamOReferenceControl  # noqa: E402
from .reference_sets import DreamOReferenceBatch, DreamOReferences  # noqa: E402
from .region import DreamORegion, DreamORoutingWords  # noqa: E402
from .routed_sampler import DreamORoutedSampler, DreamORoutingPreview  # noqa: E402
from .routing import DreamORouting  # noqa: E402
from .speed import DreamOSpeed  # noqa: E402
from .stack import DreamOModelStack  # noqa: E402
from .style_prompt import DreamOStylePrompt  # noqa: E402
from .text import DreamOPlaceholders, DreamOTextEncode  # noqa: E402
from .uso_style import DreamOUSOStyle  # noqa: E402


class DreamOExtension(ComfyExtension):
    async def on_load(self) -> None:
        await register_replacements()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            DreamOLoader,
            DreamOModelStack,
            DreamOLora,
            DreamOReference,
            DreamOPlaceholders,
            DreamOTextEncode,
            DreamOReferences,
            DreamOReferenceBatch,
            DreamOLoadPicture,
            DreamOStylePrompt,
            DreamOApply,
            DreamOReferenceControl,
            DreamOUSOStyle,
            DreamOSpeed,
            DreamOTrueCFGRange,
            DreamORouting,
            DreamORegion,
            DreamORoutingWords,
            DreamORoutedSampler,
            DreamORoutingPreview,
            DreamOOfficialProcessor,
            DreamOOfficialReference,
            DreamOOfficialApply,
            RealCustomLoader,
            RealCustomSubject,
            RealCustomApply,
            DreamODemoModels,
            DreamODemoControlNet,
            DreamODemoUSO,
            DreamOExamplePicture,
            RealCustomDemoModels,
        ]


async def comfy_entrypoint() -> DreamOExtension:
    return DreamOExtension()
