"""How fine a task each layer of a network can do: clusters of classes, curves, the choice by an angle (HS3)."""
