from __future__ import annotations

import numpy as np
import pytest

from seglab.data.scenes.camera import Camera

CAMERA = Camera((1.0, 2.0, 1.5), yaw=0.3, pitch=-0.1, roll=0.05, field_of_view=1.1, speed=4.0, turn=0.2, sway=0.05)


@pytest.mark.parametrize("time", [0.0, 0.7, -1.0])
def test_a_pose_is_a_rigid_motion(time: float) -> None:
    pose = CAMERA.pose(time)
    np.testing.assert_allclose(pose[:3, :3].T @ pose[:3, :3], np.eye(3), atol=1e-12)
    assert np.linalg.det(pose[:3, :3]) == pytest.approx(1)
    np.testing.assert_array_equal(pose[3], (0, 0, 0, 1))


def test_a_level_camera_looks_ahead_with_x_to_the_right_and_y_down() -> None:
    pose = Camera((0, 0, 1.5), yaw=0.0, pitch=0.0, roll=0.0, field_of_view=1.0).pose(0.0)
    right, down, ahead = pose[:3, :3].T
    np.testing.assert_allclose(ahead, (1, 0, 0), atol=1e-12)
    np.testing.assert_allclose(right, (0, -1, 0), atol=1e-12)
    np.testing.assert_allclose(down, (0, 0, -1), atol=1e-12)


def test_the_camera_moves_by_its_speed_along_its_heading() -> None:
    still = Camera((0, 0, 1), yaw=0.5, pitch=0.2, roll=0.0, field_of_view=1.0, speed=3.0)
    np.testing.assert_allclose(still.pose(2.0)[:3, 3], (6 * np.cos(0.5), 6 * np.sin(0.5), 1))


def test_the_field_of_view_spans_the_width() -> None:
    k = CAMERA.intrinsics((120, 160))
    left, right = (np.linalg.inv(k) @ (x, 0, 1) for x in (-0.5, 159.5))
    assert np.arctan(right[0]) - np.arctan(left[0]) == pytest.approx(CAMERA.field_of_view)
