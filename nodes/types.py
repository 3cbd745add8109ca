"""The types that travel between our nodes."""

from comfy_api.latest import io

DreamOModelType = io.Custom("DREAMO_MODEL")
DreamOReferencesType = io.Custom("DREAMO_REFERENCES")
DreamORoutingMapsType = io.Custom("DREAMO_ROUTING_MAPS")
RealCustomModelType = io.Custom("REALCUSTOM_MODEL")
RealCustomSubjectsType = io.Custom("REALCUSTOM_SUBJECTS")
