"""Expert loads per step and layer: what the gate asked for."""
